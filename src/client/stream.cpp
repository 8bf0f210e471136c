#include "client/stream.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "client/name_lookup.hpp"

namespace postbus::remote {

wakeup::wakeup() : fd_{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)} {
  if (fd_ < 0) throw std::runtime_error{fmt::format("cannot make an eventfd: {}", std::strerror(errno))};
}
wakeup::~wakeup() { ::close(fd_); }
void wakeup::signal() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(fd_, &one, sizeof one);  // full means signalled already
}
void wakeup::clear() noexcept {
  std::uint64_t count;
  [[maybe_unused]] const auto taken = ::read(fd_, &count, sizeof count);
}

namespace {

enum class waited { ready, timed_out, woken };

waited wait_for(int fd, short events, const wakeup* wake, steady::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady::now()).count();
    std::array<pollfd, 2> watched{pollfd{fd, events, 0}, pollfd{wake ? wake->fd() : -1, POLLIN, 0}};
    const int ready = ::poll(watched.data(), watched.size(), static_cast<int>(std::clamp<std::int64_t>(left, 0, 1 << 30)));
    if (ready < 0 && errno == EINTR) continue;
    if (watched[1].revents != 0) return waited::woken;
    if (watched[0].revents != 0) return waited::ready;
    if (left <= 0) return waited::timed_out;
  }
}

error from_errno(std::string_view what, int reason) {
  const auto* const hint = reason == ECONNREFUSED ? "; no gateway runs there (`postbus serve` starts one)" : "";
  return error{errc::io, fmt::format("{}: {}{}", what, std::strerror(reason), hint)};
}
error stopped() { return error{errc::io, "stopped"}; }

error from_tls(std::string_view what, SSL* session) {
  if (const long verdict = SSL_get_verify_result(session); verdict != X509_V_OK)
    return error{errc::io, fmt::format("{}: the gateway's certificate is not trusted: {}", what, X509_verify_cert_error_string(verdict))};
  const auto code = ERR_peek_error();
  ERR_clear_error();
  if (ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == SSL_R_WRONG_VERSION_NUMBER)
    return error{errc::io, fmt::format("{}: it does not speak TLS there; is it http:// instead of https://?", what)};
  const char* reason = code != 0 ? ERR_reason_error_string(code) : nullptr;
  return error{errc::io, fmt::format("{}: TLS failed{}{}", what, reason ? ": " : "", reason ? reason : "")};
}

template <auto Free>
struct freed {
  template <class T>
  void operator()(T* held) const {
    Free(held);
  }
};

}  // namespace

struct stream::impl {
  ~impl() {
    if (fd >= 0) ::close(fd);
  }

  result<> dial(const socket_address& to, time_point deadline) {
    fd = ::socket(to.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return from_errno("cannot make a socket", errno);
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&to.storage), to.size) == 0) return {};
    if (errno != EINPROGRESS) return from_errno(where, errno);
    const auto outcome = wait_for(fd, POLLOUT, wake, deadline);
    if (outcome == waited::woken) return stopped();
    if (outcome == waited::timed_out) return error{errc::timed_out, fmt::format("{}: no answer", where)};
    int failed = 0;
    socklen_t size = sizeof failed;
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size);
    if (failed != 0) return from_errno(where, failed);
    return {};
  }

  void hang_up() {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }

  result<> start_tls(const gateway_url& to, const std::string& ca_file, time_point deadline) {
    context.reset(SSL_CTX_new(TLS_client_method()));
    if (!context) return error{errc::internal, "OpenSSL has no TLS client"};
    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    const int trusted = ca_file.empty() ? SSL_CTX_set_default_verify_paths(context.get())
                                        : SSL_CTX_load_verify_locations(context.get(), ca_file.c_str(), nullptr);
    if (trusted != 1)
      return error{errc::invalid_argument,
                   fmt::format("cannot read trusted certificates from {}", ca_file.empty() ? "the system" : ca_file)};
    session.reset(SSL_new(context.get()));
    BIO* const in = BIO_new(BIO_s_mem());
    BIO* const out = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(in, -1);  // an empty buffer means "later", not the end
    BIO_set_mem_eof_return(out, -1);
    SSL_set_bio(session.get(), in, out);
    auto* const verify = SSL_get0_param(session.get());
    if (X509_VERIFY_PARAM_set1_ip_asc(verify, to.host.c_str()) != 1) {
      SSL_set1_host(session.get(), to.host.c_str());
      SSL_set_tlsext_host_name(session.get(), to.host.c_str());
    }
    SSL_set_connect_state(session.get());
    for (;;) {
      const int done = SSL_do_handshake(session.get());
      if (const auto sent = send_pending(deadline); !sent) return sent;
      if (done == 1) return {};
      if (SSL_get_error(session.get(), done) != SSL_ERROR_WANT_READ) return from_tls(where, session.get());
      const auto got = fill(deadline);
      if (!got) return got.error();
      if (got->is == read_outcome::what::woken) return stopped();
      if (got->is == read_outcome::what::timed_out) return error{errc::timed_out, fmt::format("{}: no answer to the TLS handshake", where)};
      if (got->is == read_outcome::what::end)
        return error{errc::io, fmt::format("{}: closed during the TLS handshake; does it speak https?", where)};
    }
  }

  result<read_outcome> receive(char* into, std::size_t size, time_point deadline) {
    for (;;) {
      const auto got = ::recv(fd, into, size, 0);
      if (got > 0) return read_outcome{read_outcome::what::data, static_cast<std::size_t>(got)};
      if (got == 0) return read_outcome{read_outcome::what::end};
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return from_errno(where, errno);
      const auto outcome = wait_for(fd, POLLIN, wake, deadline);
      if (outcome == waited::woken) return read_outcome{read_outcome::what::woken};
      if (outcome == waited::timed_out) return read_outcome{read_outcome::what::timed_out};
    }
  }

  result<> send_all(std::string_view bytes, time_point deadline) {
    while (!bytes.empty()) {
      const auto put = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (put >= 0) {
        bytes.remove_prefix(static_cast<std::size_t>(put));
        continue;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return from_errno(where, errno);
      const auto outcome = wait_for(fd, POLLOUT, wake, deadline);
      if (outcome == waited::woken) return stopped();
      if (outcome == waited::timed_out) return error{errc::timed_out, fmt::format("{}: does not take what is sent", where)};
    }
    return {};
  }

  /** Ciphertext from the socket into OpenSSL. */
  result<read_outcome> fill(time_point deadline) {
    std::array<char, 16 * 1024> block;
    auto got = receive(block.data(), block.size(), deadline);
    if (got && got->is == read_outcome::what::data) BIO_write(SSL_get_rbio(session.get()), block.data(), static_cast<int>(got->bytes));
    return got;
  }

  /** Ciphertext that OpenSSL wants sent. */
  result<> send_pending(time_point deadline) {
    BIO* const out = SSL_get_wbio(session.get());
    std::array<char, 16 * 1024> block;
    while (BIO_ctrl_pending(out) > 0) {
      const int size = BIO_read(out, block.data(), static_cast<int>(block.size()));
      if (size <= 0) break;
      if (const auto sent = send_all({block.data(), static_cast<std::size_t>(size)}, deadline); !sent) return sent;
    }
    return {};
  }

  std::string where;  ///< begins every text of an error
  int fd{-1};
  const wakeup* wake{};
  std::unique_ptr<SSL_CTX, freed<SSL_CTX_free>> context;
  std::unique_ptr<SSL, freed<SSL_free>> session;
};

stream::stream(std::unique_ptr<impl> made) : impl_{std::move(made)} {}
stream::stream(stream&&) noexcept = default;
stream& stream::operator=(stream&&) noexcept = default;
stream::~stream() = default;

result<stream> stream::connect(const gateway_url& to, const std::string& ca_file, time_point deadline, const wakeup* wake) {
  auto made = std::make_unique<impl>();
  made->wake = wake;
  made->where = fmt::format("cannot reach {}", to.text());
  const auto addresses = look_up(to.host, to.port, deadline);
  if (!addresses) return addresses.error();
  error last{errc::io, fmt::format("the host {} has no address", to.host)};
  for (const auto& address : *addresses) {
    auto dialled = made->dial(address, deadline);
    if (dialled && to.tls) dialled = made->start_tls(to, ca_file, deadline);
    if (dialled) {
      made->where = fmt::format("lost {}", to.text());
      return stream{std::move(made)};
    }
    last = dialled.error();
    made->session.reset();
    made->hang_up();
    if (last.code == errc::timed_out) break;
  }
  return last;
}

result<read_outcome> stream::read_some(char* into, std::size_t size, time_point deadline) {
  if (!impl_->session) return impl_->receive(into, size, deadline);
  for (;;) {
    std::size_t taken = 0;
    const int done = SSL_read_ex(impl_->session.get(), into, size, &taken);
    if (const auto sent = impl_->send_pending(deadline); !sent) return sent.error();
    if (done == 1) return read_outcome{read_outcome::what::data, taken};
    const int why = SSL_get_error(impl_->session.get(), done);
    if (why == SSL_ERROR_ZERO_RETURN) return read_outcome{read_outcome::what::end};
    if (why != SSL_ERROR_WANT_READ) return from_tls(impl_->where, impl_->session.get());
    const auto got = impl_->fill(deadline);
    if (!got || got->is != read_outcome::what::data) return got;
  }
}

result<> stream::write_all(std::string_view bytes, time_point deadline) {
  if (!impl_->session) return impl_->send_all(bytes, deadline);
  if (bytes.empty()) return {};
  std::size_t written = 0;  // memory buffers grow: OpenSSL takes everything at once
  if (SSL_write_ex(impl_->session.get(), bytes.data(), bytes.size(), &written) != 1) return from_tls(impl_->where, impl_->session.get());
  return impl_->send_pending(deadline);
}

bool stream::is_idle_and_open() {
  char byte;
  return ::recv(impl_->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

}  // namespace postbus::remote
