// OpenSSL over a socket that somebody else polls. A stream never waits: each call does what the socket allows and says what
// it needs next. The handshake is OpenSSL's own affair inside SSL_read and SSL_write (SSL_set_accept_state).
#include "gateway/tls.hpp"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace postbus::gateway {
namespace {

/** What OpenSSL's queue of errors says, oldest first; empties it. */
std::string openssl_says() {
  std::string out;
  for (unsigned long code = 0; (code = ERR_get_error()) != 0;) {
    std::array<char, 256> text{};
    ERR_error_string_n(code, text.data(), text.size());
    if (!out.empty()) out += "; ";
    out += text.data();
  }
  return out;
}

// A socket BIO of our own: OpenSSL's uses write(), which raises SIGPIPE when the peer is gone.

int socket_of(BIO* bio) { return static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio))); }

bool again(int why) { return why == EAGAIN || why == EWOULDBLOCK || why == EINTR; }

int bio_write(BIO* bio, const char* data, std::size_t size, std::size_t* written) {
  BIO_clear_retry_flags(bio);
  const auto n = ::send(socket_of(bio), data, size, MSG_NOSIGNAL);
  if (n < 0) {
    if (again(errno)) BIO_set_retry_write(bio);
    return 0;
  }
  *written = static_cast<std::size_t>(n);
  return 1;
}

int bio_read(BIO* bio, char* data, std::size_t size, std::size_t* got) {
  BIO_clear_retry_flags(bio);
  const auto n = ::recv(socket_of(bio), data, size, 0);
  if (n <= 0) {
    if (n < 0 && again(errno)) BIO_set_retry_read(bio);
    if (n == 0) {
      errno = 0;
      BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    }
    return 0;
  }
  *got = static_cast<std::size_t>(n);
  return 1;
}

long bio_control(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_FLUSH) return 1;
  if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
  return 0;
}

BIO_METHOD* socket_method() {
  static BIO_METHOD* const method = [] {
    auto* const m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "non-blocking socket without SIGPIPE");
    BIO_meth_set_write_ex(m, bio_write);
    BIO_meth_set_read_ex(m, bio_read);
    BIO_meth_set_ctrl(m, bio_control);
    return m;
  }();
  return method;
}

/** HTTP/1.1 is what we speak. A client that offers ALPN without it is refused (RFC 7301 section 3.2). */
int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* in, unsigned int in_size, void*) {
  static constexpr unsigned char ours[] = "\x08http/1.1";
  auto* chosen = const_cast<unsigned char*>(ours);
  const int found = SSL_select_next_proto(&chosen, out_size, ours, sizeof ours - 1, in, in_size);
  *out = chosen;
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

int no_passphrase(char*, int, int, void*) { return -1; }

}  // namespace

struct tls_context::native {
  SSL_CTX* context{};
  ~native() { SSL_CTX_free(context); }
};

tls_context::tls_context(std::unique_ptr<native> n) : native_{std::move(n)} {}
tls_context::~tls_context() = default;

result<std::shared_ptr<const tls_context>> tls_context::load(const std::filesystem::path& certificate, const std::filesystem::path& key) {
  ERR_clear_error();
  auto made = std::make_unique<native>();
  made->context = SSL_CTX_new(TLS_server_method());
  auto* const context = made->context;
  if (context == nullptr) return error{errc::internal, "OpenSSL cannot be set up", openssl_says()};

  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context,
                      SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  // Buffers exist only while bytes are in them: 34 kB less for an idle connection.
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);  // sessions live in tickets, which the client keeps
  SSL_CTX_set_num_tickets(context, 1);
  SSL_CTX_set_alpn_select_cb(context, choose_protocol, nullptr);
  SSL_CTX_set_default_passwd_cb(context, no_passphrase);
  if (SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL") != 1)
    return error{errc::internal, "OpenSSL knows none of the cipher suites asked for", openssl_says()};

  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1)
    return error{errc::invalid_argument, fmt::format("--tls-cert {}: not a readable PEM certificate chain", certificate.string()),
                 openssl_says()};
  if (SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1)
    return error{errc::invalid_argument,
                 fmt::format("--tls-key {}: not a readable PEM private key of that certificate, or one behind a passphrase", key.string()),
                 openssl_says()};
  if (SSL_CTX_check_private_key(context) != 1)
    return error{errc::invalid_argument, fmt::format("--tls-key {}: the key is not that of {}", key.string(), certificate.string()),
                 openssl_says()};
  return std::shared_ptr<const tls_context>{new tls_context{std::move(made)}};
}

struct tls_stream::native {
  SSL* ssl{};
  std::string held;  ///< plaintext whose record the socket has not taken in full
  std::string why;
  bool wants_write{}, broken{}, shut{};
  ~native() { SSL_free(ssl); }

  io_outcome write(std::string_view bytes) {
    ERR_clear_error();
    errno = 0;
    std::size_t written = 0;
    const int status = SSL_write_ex(ssl, bytes.data(), bytes.size(), &written);
    return status == 1 ? io_outcome{io_outcome::what::done, written} : ended(status);
  }

  /** Sorts out a call that moved nothing. */
  io_outcome ended(int status) {
    const int system = errno;
    switch (SSL_get_error(ssl, status)) {
      case SSL_ERROR_WANT_READ: wants_write = false; return {io_outcome::what::would_block};
      case SSL_ERROR_WANT_WRITE: wants_write = true; return {io_outcome::what::would_block};
      case SSL_ERROR_ZERO_RETURN: return {io_outcome::what::closed};
      case SSL_ERROR_SYSCALL:
        why = openssl_says();
        if (why.empty()) why = system != 0 ? std::strerror(system) : "the peer closed without a word";
        break;
      default: why = openssl_says();
    }
    broken = true;
    return {io_outcome::what::failed};
  }
};

tls_stream::tls_stream(const tls_context& context, int fd) : native_{std::make_unique<native>()} {
  native_->ssl = SSL_new(context.handle().context);  // takes its own share of the context
  auto* const bio = native_->ssl == nullptr ? nullptr : BIO_new(socket_method());
  if (bio == nullptr) {
    native_->why = openssl_says();
    native_->broken = true;
    return;
  }
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)));
  BIO_set_init(bio, 1);
  SSL_set_bio(native_->ssl, bio, bio);
  SSL_set_accept_state(native_->ssl);
}
tls_stream::tls_stream(tls_stream&&) noexcept = default;
tls_stream& tls_stream::operator=(tls_stream&&) noexcept = default;
tls_stream::~tls_stream() = default;

io_outcome tls_stream::read(std::span<char> into) {
  if (native_->broken) return {io_outcome::what::failed};
  ERR_clear_error();
  errno = 0;
  std::size_t got = 0;
  const int status = SSL_read_ex(native_->ssl, into.data(), into.size(), &got);
  if (status == 1) return {io_outcome::what::done, got};
  return native_->ended(status);
}

io_outcome tls_stream::write(std::string_view bytes) {
  if (const auto before = flush(); before.is != io_outcome::what::done) return before;
  if (bytes.empty()) return {io_outcome::what::done, 0};
  const auto record = bytes.substr(0, SSL3_RT_MAX_PLAIN_LENGTH);
  const auto sent = native_->write(record);
  if (sent.is != io_outcome::what::would_block || !native_->wants_write || !handshake_done()) return sent;
  native_->held = record;
  return {io_outcome::what::done, record.size()};
}

bool tls_stream::holds() const { return !native_->held.empty(); }

io_outcome tls_stream::flush() {
  if (native_->broken) return {io_outcome::what::failed};
  while (!native_->held.empty()) {
    const auto sent = native_->write(native_->held);
    if (sent.is != io_outcome::what::done) return sent;
    native_->held.erase(0, sent.bytes);  // less than all where the client asked for smaller records
  }
  native_->held = {};
  return {io_outcome::what::done};
}

void tls_stream::shutdown() {
  if (native_->broken || native_->shut || SSL_is_init_finished(native_->ssl) == 0) return;
  if (flush().is != io_outcome::what::done) return;
  native_->shut = true;
  ERR_clear_error();
  SSL_shutdown(native_->ssl);
  ERR_clear_error();
}

bool tls_stream::handshake_done() const { return native_->ssl != nullptr && SSL_is_init_finished(native_->ssl) != 0; }
bool tls_stream::wants_write() const { return native_->wants_write; }
// Not SSL_has_pending: that counts half a record too, for which only the socket can bring the rest.
bool tls_stream::has_buffered() const { return native_->ssl != nullptr && SSL_pending(native_->ssl) > 0; }
std::string tls_stream::why() const { return native_->why; }

}  // namespace postbus::gateway
