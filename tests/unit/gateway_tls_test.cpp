// The gateway over TLS, with OpenSSL's client: what differs from plain sockets is how bytes arrive (a record at a time) and
// leave.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/certificate.hpp"
#include "support/memory_gateway.hpp"

namespace postbus::test {
namespace {

/** A blocking client that can collect records and send them in one go; every read has a deadline. */
class tls_client {
public:
  explicit tls_client(std::uint16_t port)
      : context_{SSL_CTX_new(TLS_client_method())}, ssl_{SSL_new(context_)}, fd_{::socket(AF_INET, SOCK_STREAM, 0)} {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) throw std::runtime_error{"connect"};
    const timeval deadline{10, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline);
    SSL_set_fd(ssl_, fd_);
    if (SSL_connect(ssl_) != 1) throw std::runtime_error{"TLS handshake"};
  }
  ~tls_client() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
    ::close(fd_);
  }
  tls_client(const tls_client&) = delete;
  tls_client& operator=(const tls_client&) = delete;

  /** Each part becomes its own record; all leave in one send. */
  void send(std::initializer_list<std::string_view> parts) {
    SSL_set0_wbio(ssl_, BIO_new(BIO_s_mem()));
    for (const auto part : parts) SSL_write(ssl_, part.data(), static_cast<int>(part.size()));
    char* bytes = nullptr;
    const auto size = BIO_get_mem_data(SSL_get_wbio(ssl_), &bytes);
    ASSERT_EQ(::send(fd_, bytes, static_cast<std::size_t>(size), MSG_NOSIGNAL), size);
  }
  /** Reads until `end` has come, or the deadline has passed; returns all of it. */
  std::string read_until(std::string_view end) {
    while (!got_.contains(end)) {
      char buffer[4096];
      const int n = SSL_read(ssl_, buffer, sizeof buffer);
      if (n <= 0) break;
      got_.append(buffer, static_cast<std::size_t>(n));
    }
    return std::exchange(got_, {});
  }
  int fd() const { return fd_; }

private:
  SSL_CTX* context_;
  SSL* ssl_;
  int fd_;
  std::string got_;
};

struct gateway_tls : testing::Test {
  static gateway::gateway_options options() {
    const certificate files;
    gateway::gateway_options o;
    o.tls = gateway::tls_context::load(files.chain(), files.key()).value();
    o.origins.seen_as = gateway::origin_policy::scheme::https;
    return o;
  }
  memory_gateway g{options()};
};

TEST_F(gateway_tls, records_that_arrive_together_are_all_read) {
  tls_client c{g.port()};
  c.send({"GET /health/live HTTP/1.1\r\n", "Host: local", "host\r\n", "\r\n"});
  EXPECT_TRUE(c.read_until("ok\n").starts_with("HTTP/1.1 200 OK\r\n"));
  c.send({"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"});
  const auto both = c.read_until("urn:postbus:error:not_found");
  EXPECT_TRUE(both.contains("200 OK") && both.contains("404 Not Found")) << both;
}

TEST_F(gateway_tls, a_large_event_reaches_a_reader_with_a_small_window) {
  tls_client c{g.port()};
  const int tiny = 64 * 1024;
  ::setsockopt(c.fd(), SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
  c.send({"GET /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nOrigin: https://localhost\r\n\r\n"});
  c.read_until("\n\n");
  auto one = std::make_shared<bus::batch>();
  const std::string payload = std::string(2'000'000, 'x') + "THE END";
  one->add("a", bus::kind::message, bus::payload_form::text, payload, {0x5f3a9c01, 2001, 0}, 0);
  g.hub.publish(one);
  const auto got = c.read_until("THE END\n\n");
  EXPECT_TRUE(got.ends_with(payload + "\n\n")) << got.size();
}

TEST_F(gateway_tls, plain_http_gets_no_answer_and_harms_nobody) {
  raw_client plain{g.port()};
  plain.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
  try {
    EXPECT_FALSE(plain.read_all().contains("HTTP/1.1"));
  } catch (const std::exception&) {  // or a reset, since the gateway does not read the rest
  }
  tls_client c{g.port()};
  c.send({"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"});
  EXPECT_TRUE(c.read_until("ok\n").ends_with("ok\n"));
}

TEST(gateway_tls_deadline, a_handshake_that_does_not_end_is_given_up_and_a_quiet_client_is_not) {
  using namespace std::chrono_literals;
  auto o = gateway_tls::options();
  o.limits.header_deadline = 300ms;
  memory_gateway g{o};
  tls_client quiet{g.port()};  // a browser that connects ahead of need
  raw_client silent{g.port()}, begun{g.port()};
  begun.send({"\x16\x03\x01\x02\x00\x01", 6});
  EXPECT_EQ(silent.read_all(), "");
  EXPECT_EQ(begun.read_all(), "");
  quiet.send({"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"});
  EXPECT_TRUE(quiet.read_until("ok\n").ends_with("ok\n"));
}

}  // namespace
}  // namespace postbus::test
