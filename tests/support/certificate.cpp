#include "support/certificate.hpp"

#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace postbus::test {

certificate::certificate() {
  auto name = (std::filesystem::temp_directory_path() / "certificate_XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error{"mkdtemp " + name};
  folder_ = name;
  make();
}

certificate::~certificate() { std::filesystem::remove_all(folder_); }

void certificate::make(std::string_view chain_name, std::string_view key_name) {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const cert = X509_new();
  X509_gmtime_adj(X509_getm_notBefore(cert), 0);
  X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
  X509_set_pubkey(cert, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1,
                             0);
  X509_set_issuer_name(cert, X509_get_subject_name(cert));
  X509_sign(cert, key, EVP_sha256());
  auto* out = std::fopen(file(chain_name).c_str(), "w");
  PEM_write_X509(out, cert);
  std::fclose(out);
  out = std::fopen(file(key_name).c_str(), "w");
  PEM_write_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(out);
  X509_free(cert);
  EVP_PKEY_free(key);
}

}  // namespace postbus::test
