// TLS over a socket pair, with OpenSSL's own client at the other end.
#include "gateway/tls.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <random>

#include "support/certificate.hpp"

namespace postbus::gateway {
namespace {

using what = io_outcome::what;

class tls : public testing::Test {
protected:
  std::filesystem::path file(std::string_view name) const { return files_.file(name); }
  test::certificate files_;
  std::shared_ptr<const tls_context> context_ = tls_context::load(files_.chain(), files_.key()).value();
};

/** Two connected non-blocking sockets with small buffers; OpenSSL's client on the second. */
struct pair {
  std::array<int, 2> fds{};
  SSL_CTX* context{SSL_CTX_new(TLS_client_method())};
  SSL* client{};

  explicit pair(const char* alpn = "\x08http/1.1", int version = 0) {
    ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data());
    const int small = 8192;
    for (const int fd : fds) ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    if (version != 0) SSL_CTX_set_max_proto_version(context, version);
    if (version == TLS1_1_VERSION) SSL_CTX_set_security_level(context, 0);
    client = SSL_new(context);
    SSL_set_fd(client, fds[1]);
    SSL_set_connect_state(client);
    if (alpn != nullptr)
      SSL_set_alpn_protos(client, reinterpret_cast<const unsigned char*>(alpn),
                          static_cast<unsigned>(std::char_traits<char>::length(alpn)));
  }
  ~pair() {
    SSL_free(client);
    SSL_CTX_free(context);
    for (const int fd : fds)
      if (fd >= 0) ::close(fd);
  }

  /** Both ends by turns until the handshake is done or has failed at the server's. */
  bool handshake(tls_stream& server) {
    std::array<char, 100> buffer;
    for (int turn = 0; turn < 100; ++turn) {
      const int status = SSL_do_handshake(client);
      const auto outcome = server.read(buffer);
      if (outcome.is == what::failed) return false;
      if (status == 1 && server.handshake_done()) return true;
    }
    return false;
  }
};

TEST_F(tls, handshake_and_bytes_both_ways) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    pair ends{"\x08http/1.1", version};
    tls_stream server{*context_, ends.fds[0]};
    EXPECT_FALSE(server.handshake_done());
    ASSERT_TRUE(ends.handshake(server)) << server.why();
    EXPECT_EQ(SSL_version(ends.client), version);
    const unsigned char* protocol = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(ends.client, &protocol, &size);
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(protocol), size), "http/1.1");

    ASSERT_EQ(SSL_write(ends.client, "hello", 5), 5);
    std::array<char, 3> small;
    auto got = server.read(small);
    EXPECT_EQ(got.is, what::done);
    EXPECT_EQ(std::string_view(small.data(), got.bytes), "hel");
    EXPECT_TRUE(server.has_buffered()) << "the socket is empty, the stream is not";
    got = server.read(small);
    EXPECT_EQ(std::string_view(small.data(), got.bytes), "lo");
    EXPECT_FALSE(server.has_buffered());
    EXPECT_EQ(server.read(small).is, what::would_block);
    EXPECT_FALSE(server.wants_write());

    EXPECT_EQ(server.write("world").bytes, 5u);
    std::array<char, 10> buffer;
    EXPECT_EQ(SSL_read(ends.client, buffer.data(), 10), 5);
    server.shutdown();
    server.shutdown();
    EXPECT_EQ(SSL_read(ends.client, buffer.data(), 10), 0);
    EXPECT_EQ(SSL_get_error(ends.client, 0), SSL_ERROR_ZERO_RETURN) << "an orderly end";
  }
}

TEST_F(tls, a_full_socket_takes_part_of_it_and_the_rest_later_from_elsewhere) {
  pair ends;
  tls_stream server{*context_, ends.fds[0]};
  ASSERT_TRUE(ends.handshake(server));
  std::string payload(1 << 20, '\0');
  for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<char>(i * 131 >> 8);
  std::size_t sent = 0;
  bool blocked = false;
  std::string received;
  std::array<char, 3000> buffer;
  while (received.size() < payload.size()) {
    for (; sent < payload.size();) {
      const std::string elsewhere = payload.substr(sent);  // another address each time
      const auto outcome = server.write(elsewhere);
      if (outcome.is == what::would_block) {
        EXPECT_TRUE(server.wants_write());
        blocked = true;
        break;
      }
      ASSERT_EQ(outcome.is, what::done) << server.why();
      sent += outcome.bytes;
    }
    ASSERT_NE(server.flush().is, what::failed) << server.why();
    for (int n = 0; (n = SSL_read(ends.client, buffer.data(), buffer.size())) > 0;)
      received.append(buffer.data(), static_cast<std::size_t>(n));
  }
  EXPECT_TRUE(blocked);
  EXPECT_EQ(received, payload);
}

TEST_F(tls, behind_a_record_that_the_socket_has_not_taken_may_follow_anything) {
  pair ends;
  tls_stream server{*context_, ends.fds[0]};
  ASSERT_TRUE(ends.handshake(server));
  std::string given, received;
  std::array<char, 3000> buffer;
  std::minstd_rand random{7};
  for (int round = 0; round < 200; ++round) {
    const auto letter = static_cast<char>('a' + round % 26);
    while (!server.holds()) {  // a long text, until a part of it is stuck
      const auto sent = server.write(std::string(50'000, letter));
      ASSERT_EQ(sent.is, what::done) << server.why();
      given.append(sent.bytes, letter);
    }
    const std::string other(1 + random() % 40'000, static_cast<char>('A' + round % 26));  // shorter or longer than what is stuck
    EXPECT_EQ(server.write(other).is, what::would_block);
    for (std::size_t done = 0; done < other.size();) {
      const int n = SSL_read(ends.client, buffer.data(), buffer.size());
      if (n > 0) received.append(buffer.data(), static_cast<std::size_t>(n));
      const auto sent = server.write(std::string_view{other}.substr(done));
      ASSERT_NE(sent.is, what::failed) << server.why();
      if (sent.is == what::done) done += sent.bytes;
    }
    given += other;
  }
  while (received.size() < given.size()) {
    const int n = SSL_read(ends.client, buffer.data(), buffer.size());
    if (n > 0) received.append(buffer.data(), static_cast<std::size_t>(n));
    ASSERT_TRUE(n > 0 || server.holds()) << received.size() << " of " << given.size();
    ASSERT_NE(server.flush().is, what::failed) << server.why();
  }
  EXPECT_TRUE(received == given);
  EXPECT_FALSE(server.holds());
}

TEST_F(tls, half_a_record_is_nothing_to_read_yet) {
  pair ends;
  tls_stream server{*context_, ends.fds[0]};
  ASSERT_TRUE(ends.handshake(server));
  BIO* const captured = BIO_new(BIO_s_mem());
  SSL_set0_wbio(ends.client, captured);
  ASSERT_EQ(SSL_write(ends.client, "hello", 5), 5);
  char* record = nullptr;
  const auto size = static_cast<std::size_t>(BIO_get_mem_data(captured, &record));
  std::array<char, 100> buffer;
  for (const std::size_t half : {std::size_t{3}, size / 2 - 3}) {  // inside the header, then inside the rest
    ASSERT_EQ(::write(ends.fds[1], record, half), static_cast<ssize_t>(half));
    record += half;
    EXPECT_EQ(server.read(buffer).is, what::would_block);
    EXPECT_FALSE(server.has_buffered()) << "who reads until nothing is buffered would never end";
  }
  ASSERT_GT(::write(ends.fds[1], record, size - size / 2), 0);
  EXPECT_EQ(server.read(buffer).bytes, 5u);
}

TEST_F(tls, old_versions_and_other_protocols_are_refused) {
  pair old{"\x08http/1.1", TLS1_1_VERSION};
  tls_stream server{*context_, old.fds[0]};
  EXPECT_FALSE(old.handshake(server));
  EXPECT_FALSE(server.why().empty());

  pair h2{"\x02h2"};
  tls_stream second{*context_, h2.fds[0]};
  EXPECT_FALSE(h2.handshake(second));

  pair silent{nullptr};
  tls_stream third{*context_, silent.fds[0]};
  EXPECT_TRUE(silent.handshake(third)) << "no ALPN is fine";
}

TEST_F(tls, plain_http_and_noise_fail_without_harm) {
  for (const std::string& bytes : {std::string{"GET / HTTP/1.1\r\nHost: h\r\n\r\n"}, std::string(500, '\xff'), std::string(500, '\0')}) {
    pair ends;
    tls_stream server{*context_, ends.fds[0]};
    ASSERT_EQ(::write(ends.fds[1], bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    std::array<char, 100> buffer;
    EXPECT_EQ(server.read(buffer).is, what::failed);
    EXPECT_FALSE(server.why().empty());
    EXPECT_EQ(server.read(buffer).is, what::failed);
    EXPECT_EQ(server.write("x").is, what::failed);
    server.shutdown();
  }
}

TEST_F(tls, how_a_peer_can_end) {
  std::array<char, 100> buffer;
  pair orderly;
  tls_stream first{*context_, orderly.fds[0]};
  ASSERT_TRUE(orderly.handshake(first));
  SSL_shutdown(orderly.client);
  EXPECT_EQ(first.read(buffer).is, what::closed);

  pair gone;
  tls_stream second{*context_, gone.fds[0]};
  ASSERT_TRUE(gone.handshake(second));
  ::close(gone.fds[1]);
  gone.fds[1] = -1;
  EXPECT_EQ(second.read(buffer).is, what::failed);
  EXPECT_FALSE(second.why().empty());

  pair vanished;  // writing must raise no SIGPIPE
  tls_stream third{*context_, vanished.fds[0]};
  ASSERT_TRUE(vanished.handshake(third));
  ::close(vanished.fds[1]);
  vanished.fds[1] = -1;
  EXPECT_EQ(third.write("x").is, what::failed);
}

TEST_F(tls, a_reload_leaves_open_streams_alone) {
  pair ends;
  tls_stream server{*context_, ends.fds[0]};
  ASSERT_TRUE(ends.handshake(server));
  files_.make();
  context_ = tls_context::load(file("cert.pem"), file("key.pem")).value();  // the old context is gone
  EXPECT_EQ(server.write("still").is, what::done);
  pair next;
  tls_stream fresh{*context_, next.fds[0]};
  EXPECT_TRUE(next.handshake(fresh));
}

TEST_F(tls, files_that_do_not_fit_are_named) {
  files_.make("other.pem", "other_key.pem");
  const auto text = [&](const char* certificate, const char* key) {
    const auto loaded = tls_context::load(file(certificate), file(key));
    EXPECT_FALSE(loaded);
    return loaded ? std::string{} : loaded.error().text;
  };
  EXPECT_TRUE(text("none.pem", "key.pem").contains("--tls-cert"));
  EXPECT_TRUE(text("key.pem", "key.pem").contains("--tls-cert"));
  EXPECT_TRUE(text("cert.pem", "none.pem").contains("--tls-key"));
  EXPECT_TRUE(text("cert.pem", "cert.pem").contains("--tls-key"));
  EXPECT_TRUE(text("cert.pem", "other_key.pem").contains("--tls-key"));
}

}  // namespace
}  // namespace postbus::gateway
