#include "postbus/client.hpp"

#include <fmt/format.h>

#include <array>
#include <mutex>

#include "base/json_text.hpp"
#include "bus/channel.hpp"
#include "client/event_text.hpp"
#include "client/failure.hpp"
#include "client/http_response.hpp"
#include "client/listener.hpp"
#include "client/subscription.hpp"

namespace postbus {

void remote::raise(const error& why) {
  const auto& known = traits(why.code);
  throw request_error{std::string{known.name}, why.text, known.retry};
}
void remote::raise_invalid(const error& why) { throw std::invalid_argument{why.text}; }

namespace {

remote::gateway_url parse_or_throw(std::string_view url) {
  auto parsed = remote::parse_gateway_url(url);
  if (!parsed) remote::raise_invalid(parsed.error());
  return std::move(*parsed);
}

/** A header field's value cannot hold a line end: it would begin a field of its own. */
void check_token(std::string_view token) {
  for (const char c : token)
    if (c <= ' ' || c > '~')
      throw std::invalid_argument{"the token holds a byte that no token has (a line end, perhaps): give the bare text"};
}

}  // namespace

struct client::impl {
  impl(std::string_view url, client_options how) : to{parse_or_throw(url), how.token, how.ca_file}, options{std::move(how)} {
    check_token(to.token);
  }

  /**
   * One request over the kept connection. A request is written once: when a kept connection breaks under it nobody knows
   * whether the gateway took it, and posting twice delivers twice. Hence the look at the socket before it is used again.
   */
  result<remote::http_response> request(std::string_view method, std::string_view target, std::string_view media_type,
                                        std::string_view body) {
    const auto deadline = steady::now() + options.request_timeout;
    if (kept && !kept->is_idle_and_open()) kept.reset();
    if (!kept) {
      auto made = remote::stream::connect(to.url, to.ca_file, std::min(deadline, steady::now() + options.connect_timeout), nullptr);
      if (!made) return made.error();
      kept.emplace(std::move(*made));
    }
    auto answer = exchange(method, target, media_type, body, deadline);
    if (!answer || !answer->keeps_alive() || !answer->leftover().empty()) kept.reset();
    return answer;
  }

  result<remote::http_response> exchange(std::string_view method, std::string_view target, std::string_view media_type,
                                         std::string_view body, steady::time_point deadline) {
    auto text = remote::request_head(to, method, target);
    if (!media_type.empty()) text += fmt::format("Content-Type: {}\r\nContent-Length: {}\r\n", media_type, body.size());
    text += "\r\n";
    text += body;
    // A refusal may come before the body is through (413): the answer is read even when writing failed.
    const auto sent = kept->write_all(text, deadline);
    remote::http_response answer;
    std::array<char, 16 * 1024> block;
    while (!answer.complete()) {
      const auto got = kept->read_some(block.data(), block.size(), deadline);
      if (!got) return sent ? got.error() : sent.error();
      if (got->is == remote::read_outcome::what::timed_out)
        return error{errc::timed_out, fmt::format("{} did not answer in time", to.url.text())};
      if (got->is == remote::read_outcome::what::end) {
        if (!answer.begun()) return error{errc::io, fmt::format("{} closed the connection without an answer", to.url.text())};
        if (const auto whole = answer.end(); !whole) return whole.error();
        break;
      }
      if (const auto fed = answer.feed({block.data(), got->bytes}); !fed) return fed.error();
    }
    return answer;
  }

  std::string post(std::string_view channel, std::string_view media_type, std::string_view payload) {
    const std::lock_guard lock{guard};
    if (const auto fine = bus::check_post_channel(channel); !fine) remote::raise(fine.error());
    const auto answer = request("POST", "/v1/channels/" + remote::percent_encode(channel), media_type, payload);
    if (!answer) remote::raise(answer.error());
    if (answer->status() < 200 || answer->status() > 299) remote::raise(remote::problem_of(*answer));
    std::string at_least;
    remote::for_each_member(answer->body(), [&](std::string_view name, std::string_view value) {
      if (name != "at_least") return;
      if (auto text = remote::parse_json_string(value)) at_least = std::move(*text);
    });
    return at_least;
  }

  remote::link_settings to;
  client_options options;
  std::mutex guard;  ///< for the kept connection
  std::optional<remote::stream> kept;
};

client::client(std::string url, client_options options) : impl_{std::make_unique<impl>(url, std::move(options))} {}
client::client(client&&) noexcept = default;
client& client::operator=(client&&) noexcept = default;
client::~client() = default;

std::string client::post(std::string_view channel, std::string_view payload) & {
  return impl_->post(channel, "text/plain; charset=utf-8", payload);
}
std::string client::post_json(std::string_view channel, std::string_view json) & { return impl_->post(channel, "application/json", json); }

listener client::listen(std::vector<std::string> channels, listen_options options) const {
  auto made = std::make_unique<listener::impl>(impl_->to, impl_->options, std::move(channels), std::move(options));
  made->wait_confirmed();
  return listener{std::move(made)};
}

subscription client::listen(std::vector<std::string> channels, std::function<void(const event&)> handler, listen_options options) const {
  return subscription{std::make_unique<subscription::impl>(listen(std::move(channels), std::move(options)), std::move(handler))};
}

void client::ack(std::string_view channel, std::string_view consumer, std::string_view position) & {
  const std::lock_guard lock{impl_->guard};
  const auto answer = impl_->request("POST",
                                     fmt::format("/v1/channels/{}/ack?consumer={}&position={}", remote::percent_encode(channel),
                                                 remote::percent_encode(consumer), remote::percent_encode(position)),
                                     "text/plain", {});
  if (!answer) remote::raise(answer.error());
  if (answer->status() < 200 || answer->status() > 299) remote::raise(remote::problem_of(*answer));
}

std::string client::status() & {
  const std::lock_guard lock{impl_->guard};
  const auto answer = impl_->request("GET", "/v1/status", {}, {});
  if (!answer) remote::raise(answer.error());
  if (answer->status() != 200) remote::raise(remote::problem_of(*answer));
  return answer->body();
}

}  // namespace postbus
