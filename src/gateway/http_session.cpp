#include "gateway/http_session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "gateway/authorise.hpp"
#include "gateway/problem.hpp"

namespace postbus::gateway {
namespace {

constexpr std::chrono::milliseconds discard_deadline{2'000};
constexpr std::size_t most_unread_answers = 256 * 1024;

}  // namespace

void http_session::begin() { set_state(handshake_done() ? state::idle : state::handshaking); }

void http_session::set_state(state next) {
  state_ = next;
  switch (next) {
    case state::handshaking: arm(home().limits().header_deadline); break;  // once: who sends a byte now and then does not move it
    case state::idle: arm(home().limits().idle_deadline); break;
    case state::reading:
      in_body_ = false;
      arm(home().limits().header_deadline);
      break;
    case state::discarding: arm(home().limits().stall_deadline); break;  // until the answer is written
    case state::busy:
    case state::waiting: disarm(); break;
  }
}

void http_session::on_timer() {
  switch (state_) {
    case state::handshaking:
      if (handshake_done())
        set_state(state::idle);
      else
        close();
      break;
    case state::reading:
      last_ = true;
      fail({errc::request_timeout, "the request did not arrive in time"});
      break;
    case state::waiting: finish_wait(); break;
    case state::idle:
    case state::discarding:
      // A reader may be slow, as long as it reads.
      if (out_bytes() > 0)
        close_if_stalled();
      else
        close();
      break;
    case state::busy: close(); break;
  }
}

void http_session::drain() {
  last_ = true;
  switch (state_) {
    case state::handshaking:
    case state::idle: close(); break;
    case state::waiting: finish_wait(); break;
    case state::reading:
    case state::busy:
    case state::discarding: break;
  }
}

void http_session::on_end() {
  switch (state_) {
    case state::busy:  // the answer is on its way, and the client may still read it
      last_ = true;
      break;
    case state::discarding: close_after_out(); break;
    case state::waiting:  // has left: curl, browsers and proxies do not half-close, and nobody waits for minutes for them
    case state::handshaking:
    case state::idle:
    case state::reading: close(); break;
  }
}

void http_session::on_bytes(std::span<char> bytes) {
  if (state_ == state::discarding) return;
  if (state_ == state::handshaking) state_ = state::idle;
  unread_.append(bytes.data(), bytes.size());
  feed();
}

void http_session::feed() {
  while (!closed() && !unread_.empty() && !answers_unread() && (state_ == state::idle || state_ == state::reading)) {
    if (!parser_) parser_ = std::make_unique<http_parser>(http_limits{.body_bytes = home().limits().max_message + (64u << 10)});
    if (state_ == state::idle) set_state(state::reading);
    const auto taken = parser_->feed(unread_);
    const bool all = taken == unread_.size();
    if (all)
      unread_.clear();
    else
      unread_.erase(0, taken);
    switch (parser_->state()) {
      case http_parser::stage::need_more: break;
      case http_parser::stage::body:
        if (!std::exchange(in_body_, true) && !begin_body()) return;
        if (parser_->take_wants_continue()) {
          out() += "HTTP/1.1 100 Continue\r\n\r\n";
          home().flush_later(*this);
        }
        if (!body_.hold(body_.bytes() + taken)) {
          last_ = true;
          return fail({errc::unavailable, "too many large requests at once; try again in a moment"});
        }
        break;
      case http_parser::stage::failed:
        last_ = true;
        head_only_ = false;
        fail(parser_->failure());
        return;
      case http_parser::stage::complete: act(); break;
    }
    if (all) return;
  }
}

/** The header is known, the body is still to come. False when it has been answered already: nobody without a token makes us keep 16 MB. */
bool http_session::begin_body() {
  arm(home().limits().body_deadline);  // once: who sends a byte now and then does not move it
  if (!home().shared().tokens.load()) return true;
  auto parsed = target::parse(parser_->target());
  if (parsed) {
    target_ = std::move(*parsed);
    identify();
    if (who() != nullptr) return true;
  }
  last_ = true;
  head_only_ = parser_->method() == http_method::head;
  common_headers_.clear();
  fail(parsed ? authorise(home(), nullptr, right::post, {}).error() : parsed.error());
  return false;
}

bool http_session::answers_unread() const { return out_bytes() > most_unread_answers; }

void http_session::act() {
  metrics::add(metrics::counter::requests);
  set_state(state::busy);
  pause_reading();
  last_ = last_ || !parser_->keep_alive() || home().shared().draining.load();
  head_only_ = parser_->method() == http_method::head;
  common_headers_.clear();
  auto parsed = target::parse(parser_->target());
  if (!parsed) return fail(parsed.error());
  target_ = std::move(*parsed);
  identify();
  route(*this);
}

void http_session::identify() {
  set_identity(nullptr);
  token_shown_ = false;
  const auto tokens = home().shared().tokens.load();
  if (!tokens) return;
  std::string_view presented;
  constexpr std::string_view scheme = "bearer ";
  if (const auto header = parser_->header("authorization");
      header && header->size() > scheme.size() &&
      std::ranges::equal(header->substr(0, scheme.size()), scheme, {}, [](char c) { return c | 0x20; }))
    presented = header->substr(scheme.size());
  else if (const auto parameter = target_->one("access_token"); parameter && *parameter)
    presented = **parameter;
  token_shown_ = !presented.empty();
  if (!token_shown_) return;
  if (const auto* const known = tokens->find(presented)) set_identity(std::make_unique<identity>(known->digest, known->name));
}

void http_session::respond(response answer) {
  auto& bytes = out();
  fmt::format_to(std::back_inserter(bytes), "HTTP/1.1 {} {}\r\n", answer.status, reason_phrase(answer.status));
  if (answer.status != 204) {
    if (!answer.content_type.empty()) fmt::format_to(std::back_inserter(bytes), "Content-Type: {}\r\n", answer.content_type);
    fmt::format_to(std::back_inserter(bytes), "Content-Length: {}\r\n", answer.body.size());
  }
  bytes += "X-Content-Type-Options: nosniff\r\n";
  if (answer.headers.find("Cache-Control") == std::string::npos) bytes += "Cache-Control: no-store\r\n";
  bytes += common_headers_;
  bytes += answer.headers;
  if (last_) bytes += "Connection: close\r\n";
  bytes += "\r\n";
  if (!head_only_) bytes += answer.body;
  target_.reset();
  body_.hold(0);
  home().flush_later(*this);
  if (last_) {
    set_state(state::discarding);
    resume_reading();
    return;
  }
  parser_->reset();
  set_state(state::idle);
  if (answers_unread()) return;  // flush goes on when they have been read
  resume_reading();
  if (!unread_.empty()) {
    home().post([weak = handle()] {
      if (auto* const self = static_cast<http_session*>(*weak); self != nullptr && !self->closed()) self->feed();
    });
  }
}

void http_session::flush() {
  if (wait_is_over()) finish_wait();
  const bool was_unread = answers_unread();
  if (blocked() || closed() || !write_out()) return;
  if (was_unread && state_ == state::idle) {
    resume_reading();
    feed();
  }
  if (closing()) return close();  // the client has gone while its answer was on its way
  // The client may still be sending what will never be read; closing now would make the kernel reset the connection and
  // take the answer with it. So: say that no more comes, and read on for a while.
  if (state_ == state::discarding) {
    shutdown_write();
    arm(discard_deadline);
    if (parser_ && parser_->state() == http_parser::stage::complete && unread_.empty()) close();
  }
}

void http_session::fail(const error& why) {
  if (!why.detail.empty()) log::info("gateway", "{}: {}", traits(why.code).name, why);
  response answer{.status = traits(why.code).http_status, .content_type = problem_media_type};
  append_problem(answer.body, why.code == errc::unauthorised ? unauthorised(token_shown_) : why);
  if (why.code == errc::unauthorised) answer.headers = "WWW-Authenticate: Bearer\r\n";
  if (why.code == errc::unavailable || why.code == errc::draining || why.code == errc::too_many) answer.headers = "Retry-After: 1\r\n";
  respond(std::move(answer));
}

void http_session::respond_later(std::string_view name, boost::asio::awaitable<result<response>> work) {
  struct runner {
    static boost::asio::awaitable<void> run(boost::asio::awaitable<result<response>> pending, std::shared_ptr<session*> weak) {
      auto answer = co_await std::move(pending);
      auto* const self = static_cast<http_session*>(*weak);
      if (self == nullptr || self->closed()) co_return;
      if (answer)
        self->respond(std::move(*answer));
      else
        self->fail(answer.error());
    }
  };
  home().spawn(name, runner::run(std::move(work), handle()));
}

void http_session::prepare(listen_request asked, std::function<void(listen_request)> then) {
  home().listening().prepare(std::move(asked), who(), [weak = handle(), then = std::move(then)](result<listen_request> ready) {
    auto* const self = static_cast<http_session*>(*weak);
    if (self == nullptr || self->closed()) return;
    if (!ready) return self->fail(ready.error());
    then(std::move(*ready));
  });
}

void http_session::prepare_all(std::vector<listen_request> asked, std::function<void(std::vector<listen_request>)> then) {
  struct gathering {
    std::vector<listen_request> ready;
    std::size_t missing;
    bool failed{};
    std::function<void(std::vector<listen_request>)> then;
  };
  auto all = std::make_shared<gathering>(std::vector<listen_request>(asked.size()), asked.size(), false, std::move(then));
  for (std::size_t i = 0; i < asked.size(); ++i)
    home().listening().prepare(std::move(asked[i]), who(), [weak = handle(), all, i](result<listen_request> one) {
      auto* const self = static_cast<http_session*>(*weak);
      if (self == nullptr || self->closed() || all->failed) return;
      if (!one) {
        all->failed = true;
        return self->fail(one.error());
      }
      all->ready[i] = std::move(*one);
      if (--all->missing == 0) all->then(std::move(all->ready));
    });
}

}  // namespace postbus::gateway
