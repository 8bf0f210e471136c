// The gateway over TLS, with OpenSSL's client: what differs from plain sockets is how bytes arrive (a record at a time) and
// leave.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include "base/websocket_frame.hpp"
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
  /** The next frame of a WebSocket; opcode 0 when the connection has ended or the deadline has passed. */
  raw_client::frame read_frame() {
    if (!fill(2)) return {};
    std::size_t head = 2, size = static_cast<unsigned char>(got_[1]);
    if (const auto more = size == 126 ? 2u : size == 127 ? 8u : 0u; more > 0) {
      head += more;
      if (!fill(head)) return {};
      size = 0;
      for (auto i = head - more; i < head; ++i) size = size << 8 | static_cast<unsigned char>(got_[i]);
    }
    if (!fill(head + size)) return {};
    raw_client::frame out{.opcode = got_[0] & 0x0f, .payload = got_.substr(head, size)};
    got_.erase(0, head + size);
    return out;
  }
  int fd() const { return fd_; }

private:
  bool fill(std::size_t size) {
    while (got_.size() < size) {
      char buffer[16384];
      const int n = SSL_read(ssl_, buffer, sizeof buffer);
      if (n <= 0) return false;
      got_.append(buffer, static_cast<std::size_t>(n));
    }
    return true;
  }

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

constexpr int events = 8000;
std::string numbered(int n) {
  return std::to_string(n) + ' ' + std::string(900 + static_cast<std::size_t>(n) % 300, static_cast<char>('a' + n % 26));
}

/** A WebSocket whose client reads nothing of what has been published: far more than the sockets take. */
struct blocked_reader {
  explicit blocked_reader(std::size_t max_lag) : g{with(max_lag)}, c{g.port()}, other{g.port()} {
    const int tiny = 64 * 1024;
    ::setsockopt(c.fd(), SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
    c.send(
        {"GET /v1/channels/a?format=payload HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
         "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"});
    EXPECT_TRUE(c.read_until("\r\n\r\n").starts_with("HTTP/1.1 101"));
    for (int n = 1; n <= events; ++n) {
      auto one = std::make_shared<bus::batch>();
      one->add("a", bus::kind::message, bus::payload_form::text, numbered(n), {0x5f3a9c01, 2000 + static_cast<std::uint64_t>(n), 0}, 0);
      EXPECT_TRUE(g.hub.publish(std::move(one)));
      if (n % 100 == 0) turn();
    }
    turn();
  }
  static gateway::gateway_options with(std::size_t max_lag) {
    auto o = gateway_tls::options();
    o.threads = 1;
    o.limits.max_lag = max_lag;
    return o;
  }
  /** The gateway's one thread has done what it had to do before. */
  void turn() {
    for (int i = 0; i < 2; ++i) {
      other.send({"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"});
      EXPECT_TRUE(other.read_until("ok\n").ends_with("ok\n"));
    }
  }
  void ping(std::string_view text) {
    std::string frame;
    websocket::append_masked_frame(frame, websocket::opcode::ping, text, 0x01020304);
    c.send({frame});
  }

  memory_gateway g;
  tls_client c, other;
};

TEST(gateway_tls_blocked, a_client_that_pings_while_it_does_not_read_gets_every_byte_and_its_pongs_between_events) {
  // Less than a record, and about as much as one: the pongs stand where the rest of a stuck record's bytes would.
  for (const int pings : {1, 130, 300}) {
    blocked_reader reader{64u << 20};
    std::vector<std::string> asked;
    for (int i = 0; i < pings; ++i) {
      asked.push_back(std::to_string(i) + std::string(100, '.'));
      reader.ping(asked.back());
    }
    reader.turn();
    std::vector<std::string> answered;
    for (int n = 0; n < events || answered.size() < asked.size();) {
      const auto f = reader.c.read_frame();
      if (f.opcode == 10) {
        answered.push_back(f.payload);
      } else {
        ASSERT_EQ(f.opcode, 1) << "after " << n << " events, " << pings << " pings";
        ASSERT_EQ(f.payload, numbered(++n));
      }
    }
    EXPECT_EQ(answered, asked);
  }
}

TEST(gateway_tls_blocked, a_client_that_reads_on_too_late_gets_whole_events_and_then_4001) {
  blocked_reader reader{256 * 1024};
  reader.ping("?");
  reader.turn();
  int n = 0;
  auto f = reader.c.read_frame();
  for (; f.opcode == 1 || f.opcode == 10; f = reader.c.read_frame())
    if (f.opcode == 1) ASSERT_EQ(f.payload, numbered(++n));
  EXPECT_GT(n, 0);
  EXPECT_LT(n, events);
  EXPECT_EQ(f.opcode, 8) << "after " << n << " events";
  EXPECT_EQ(f.close_code(), 4001);
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
