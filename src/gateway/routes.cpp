// What each request does. A route checks, in this order: where the request comes from (Host, Origin), its shape, and what
// its token may do; then it answers, or prepares the channel and turns the connection into a stream.

#include <boost/asio/awaitable.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>

#include "base/json_text.hpp"
#include "base/metrics.hpp"
#include "bus/channel.hpp"
#include "embedded_web.hpp"
#include "feeds/feed_name.hpp"
#include "feeds/filter.hpp"
#include "gateway/authorise.hpp"
#include "gateway/channel_session.hpp"
#include "gateway/http_session.hpp"
#include "gateway/multi_session.hpp"
#include "gateway/status.hpp"
#include "gateway/websocket.hpp"

namespace postbus::gateway {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;

constexpr auto longest_wait = 5min;
constexpr std::size_t most_polled_events = 1000;
constexpr std::string_view json_type = "application/json";

std::string position_header(const bus::position& at) { return "Postbus-Position: " + bus::to_text(at) + "\r\n"; }

// --- Posting

/** What a body is by its Content-Type: JSON is embedded in events, anything else is text. Both must be UTF-8 without NUL. */
result<bus::payload_form> check_payload(std::string_view content_type, std::string_view body, std::size_t limit) {
  if (body.size() > limit)
    return error{errc::too_large, "the payload has " + std::to_string(body.size()) + " bytes, this gateway takes up to " +
                                      std::to_string(limit) + " (--max-message)"};
  if (!is_utf8(body)) return error{errc::unsupported_media, "the payload is not UTF-8; encode binary data, for instance as base64"};
  if (body.find('\0') != std::string_view::npos)
    return error{errc::unsupported_media, "PostgreSQL's text holds no NUL bytes; encode binary data, for instance as base64"};
  const auto type = content_type.substr(0, content_type.find(';'));
  if (type != json_type) return bus::payload_form::text;
  if (!is_json(body))
    return error{errc::invalid_argument, "the body is not JSON, but its Content-Type says so; to post it as text, send text/plain"};
  return bus::payload_form::json;
}

asio::awaitable<result<response>> post_and_answer(backend& behind, std::string channel, bus::payload_form form, std::string payload,
                                                  bool classic) {
  auto posted = co_await behind.post(std::move(channel), form, std::move(payload));
  if (!posted) co_return posted.error();
  response answer{.headers = position_header(*posted)};
  if (!classic) {
    answer.status = 202;
    answer.content_type = json_type;
    answer.body = R"({"at_least":")" + bus::to_text(*posted) + "\"}\n";
  }
  co_return answer;
}

void post(http_session& s, std::string_view channel, std::string_view content_type, std::string payload, bool classic) {
  if (auto named = bus::check_post_channel(channel); !named) return s.fail(named.error());
  if (auto may = authorise(s.home(), s.who(), right::post, channel); !may) return s.fail(may.error());
  auto form = check_payload(content_type, payload, s.home().limits().max_message);
  if (!form) {
    metrics::add(metrics::counter::posts_refused);
    return s.fail(form.error());
  }
  s.respond_later("post", post_and_answer(s.home().shared().behind, std::string{channel}, *form, std::move(payload), classic));
}

asio::awaitable<result<response>> acknowledge(backend& behind, std::string channel, std::string consumer, std::string position) {
  auto done = co_await behind.ack(std::move(channel), std::move(consumer), std::move(position));
  if (!done) co_return done.error();
  co_return response{.status = 204};
}

/** `POST /v1/channels/{c}/ack?consumer=&position=`. */
void ack(http_session& s, std::string_view channel) {
  if (auto named = bus::check_channel(channel); !named) return s.fail(named.error());
  if (auto may = authorise(s.home(), s.who(), right::listen, channel); !may) return s.fail(may.error());
  if (auto known = s.target().only({"consumer", "position"}); !known) return s.fail(known.error());
  auto consumer = s.target().required("consumer");
  if (!consumer) return s.fail(consumer.error());
  if (auto fits = check_consumer(channel, *consumer); !fits) return s.fail(fits.error());
  auto position = s.target().required("position");
  if (!position) return s.fail(position.error());
  if (auto at = bus::parse_position(*position); !at) return s.fail(at.error());
  s.respond_later("ack", acknowledge(s.home().shared().behind, std::string{channel}, std::string{*consumer}, std::string{*position}));
}

/** `/post?channel=&payload=`, by GET or POST; a POST may give the payload as its body, or both as a form. */
void classic_post(http_session& s) {
  if (s.request().method() != http_method::get && s.request().method() != http_method::post)
    return s.fail({errc::method_not_allowed, "/post answers GET and POST"});
  std::string form_query = "/?";
  const bool is_form = s.request().header("content-type").value_or("").starts_with("application/x-www-form-urlencoded");
  if (is_form) form_query += s.request().body();
  auto form = target::parse(form_query);
  if (!form) return s.fail(form.error());
  const auto pick = [&](std::string_view name) -> result<std::optional<std::string_view>> {
    auto given = s.target().one(name);
    if (!given || *given) return given;
    return form->one(name);
  };
  if (auto known = s.target().only({"channel", "payload"}); !known) return s.fail(known.error());
  const auto channel = pick("channel");
  if (!channel) return s.fail(channel.error());
  if (!*channel) return s.fail({errc::invalid_argument, "name the channel: /post?channel=NAME&payload=TEXT"});
  const auto payload = pick("payload");
  if (!payload) return s.fail(payload.error());
  std::string text{payload->value_or(is_form ? std::string_view{} : s.request().body())};
  post(s, **channel, is_form || *payload ? "" : s.request().header("content-type").value_or(""), std::move(text), true);
}

// --- Listening

/** Where a listener starts: ?after=, or the Last-Event-ID of an EventSource that comes back. */
result<bus::start> start_of(const http_session& s) {
  auto given = s.target().one("after");
  if (!given) return given.error();
  if (*given) return bus::parse_start(**given);
  return bus::parse_start(s.request().header("last-event-id").value_or(""));
}

response polled(const std::vector<bus::event_ref>& events, const bus::position& next) {
  response answer{.content_type = json_type};
  answer.body = R"({"events":[)";
  for (const auto& e : events) {
    if (&e != &events.front()) answer.body += ',';
    encode(answer.body, form::json, *e);
  }
  answer.body += R"(],"next":")" + bus::to_text(next) + "\"}\n";
  metrics::add(metrics::counter::events_out, events.size());
  return answer;
}

/** `?where=FILTER&columns=a,b&maybe=true` of a table; null where nothing is asked. */
result<std::unique_ptr<feeds::view_request>> filter_of(const http_session& s) {
  const auto where = s.target().one("where");
  if (!where) return where.error();
  const auto columns = s.target().one("columns");
  if (!columns) return columns.error();
  const auto maybe = s.target().flag("maybe");
  if (!maybe) return maybe.error();
  if (*where)
    if (auto given = feeds::check_given(**where); !given) return given.error();
  feeds::view_request asked{.where = std::string{where->value_or("")}, .maybe = *maybe};
  if (*columns) {
    auto names = feeds::parse_names(**columns);
    if (!names) return names.error();
    asked.columns = std::move(*names);
  }
  return asked.asks_anything() ? std::make_unique<feeds::view_request>(std::move(asked)) : nullptr;
}

/** `?consumer=NAME` of a stream; empty where none is named, or where an EventSource comes back: its Last-Event-ID is later than its place. */
result<std::string> consumer_of(const http_session& s, std::string_view channel) {
  const auto given = s.target().one("consumer");
  if (!given) return given.error();
  if (!*given) return std::string{};
  if (auto fits = check_consumer(channel, **given); !fits) return fits.error();
  const auto after = s.target().one("after");
  if (!after) return after.error();
  if (*after) return error{errc::invalid_argument, "after= or consumer=, not both: a consumer goes on where it is"};
  return std::string{s.request().header("last-event-id") ? std::string_view{} : **given};
}

/** The three ways to listen to one channel: WebSocket, SSE, long poll. A table's feed may be filtered. */
void listen(http_session& s, const std::string& channel, bool is_table = false) {
  if (s.request().method() == http_method::head) return s.fail({errc::method_not_allowed, "a channel answers GET and POST"});
  if (auto named = bus::check_channel(channel); !named) return s.fail(named.error());
  if (auto may = authorise(s.home(), s.who(), right::listen, channel); !may) return s.fail(may.error());
  if (auto known = is_table ? s.target().only({"after", "format", "wait", "consumer", "where", "columns", "maybe", "snapshot"})
                            : s.target().only({"after", "format", "wait", "consumer"});
      !known)
    return s.fail(known.error());
  auto consumer = consumer_of(s, channel);
  if (!consumer) return s.fail(consumer.error());
  auto from = start_of(s);
  if (!from) return s.fail(from.error());
  auto with_rows = s.target().flag("snapshot");
  if (!with_rows) return s.fail(with_rows.error());
  if (auto fits = check_snapshot(channel, *from, *with_rows); !fits) return s.fail(fits.error());
  listen_request asked{.channel = channel, .from = *from, .snapshot = *with_rows, .consumer = std::move(*consumer)};
  if (is_table) {
    auto filter = filter_of(s);
    if (!filter) return s.fail(filter.error());
    asked.filter = std::move(*filter);
  }

  if (wants_websocket(s.request())) {
    auto accepted = check_upgrade(s.request());
    if (!accepted) {
      s.common_headers() += "Sec-WebSocket-Version: 13\r\n";
      return s.fail(accepted.error());
    }
    auto format = s.target().format(wire_format::event);
    if (!format) return s.fail(format.error());
    const auto as = *format == wire_format::event ? form::ws_event : form::ws_payload;
    return s.prepare(std::move(asked), [&s, as, accepted = *accepted](listen_request ready) {
      std::string head;
      append_upgrade_response(head, accepted, false);
      s.before_upgrade(std::move(head));
      s.become<websocket_channel>(std::move(ready), as);
    });
  }
  if (s.request().header_has("accept", "text/event-stream")) {
    auto format = s.target().format(wire_format::payload);
    if (!format) return s.fail(format.error());
    const auto as = *format == wire_format::event ? form::sse_event : form::sse_payload;
    return s.prepare(std::move(asked), [&s, as](listen_request ready) {
      auto head = stream_head("text/event-stream; charset=utf-8", s.common_headers());
      s.become<sse_channel>(std::move(ready), as, std::move(head));
    });
  }
  if (*with_rows)
    return s.fail({errc::invalid_argument,
                   "a snapshot needs a WebSocket or `Accept: text/event-stream`: a long poll could not tell where it was interrupted"});
  if (auto format = s.target().format(wire_format::event); !format) return s.fail(format.error());
  auto patience = s.target().duration("wait", 0ms, longest_wait);
  if (!patience) return s.fail(patience.error());
  s.wait({.asked = std::move(asked),
          .at_most = *patience,
          .most_events = most_polled_events,
          .answer = polled,
          .enough = [](const bus::event&) { return true; }});
}

/** `/wait`: one payload as the body. A gap does not end the wait, it is told in a header of the answer. */
void classic_wait(http_session& s) {
  if (s.request().method() != http_method::get) return s.fail({errc::method_not_allowed, "/wait answers GET"});
  if (auto known = s.target().only({"channel", "timeout", "after", "loop"}); !known) return s.fail(known.error());
  auto channel = s.target().required("channel");
  if (!channel) return s.fail(channel.error());
  if (auto named = bus::check_channel(*channel); !named) return s.fail(named.error());
  if (auto may = authorise(s.home(), s.who(), right::listen, *channel); !may) return s.fail(may.error());
  auto from = start_of(s);
  if (!from) return s.fail(from.error());
  auto loops = s.target().flag("loop");
  if (!loops) return s.fail(loops.error());
  auto patience = s.target().duration("timeout", longest_wait, longest_wait);
  if (!patience) return s.fail(patience.error());
  listen_request asked{.channel = std::string{*channel}, .from = *from};
  if (*loops)
    return s.prepare(std::move(asked), [&s](listen_request ready) {
      auto head = stream_head("text/plain; charset=utf-8", s.common_headers());
      std::vector<listen_request> one;
      one.push_back(std::move(ready));
      s.become<stream_multi>(std::move(one), form::lines, std::move(head));
    });
  const auto is_payload = [](const bus::event& e) { return e.kind != bus::kind::gap && e.kind != bus::kind::reset; };
  s.wait({.asked = std::move(asked),
          .at_most = *patience,
          .most_events = most_polled_events,
          .answer =
              [is_payload](const std::vector<bus::event_ref>& events, const bus::position& next) {
                response answer{.status = 204};
                auto at = next;
                for (const auto& e : events) {
                  if (!is_payload(*e)) {
                    answer.headers +=
                        "Postbus-" + std::string{e->kind == bus::kind::gap ? "Gap" : "Reset"} + ": " + std::string{e->payload} + "\r\n";
                    continue;
                  }
                  answer.status = 200;
                  answer.body = e->payload;
                  at = e->at;  // what came with it is for the next /wait?after=
                  metrics::add(metrics::counter::events_out);
                  break;
                }
                answer.headers += position_header(at);
                return answer;
              },
          .enough = is_payload});
}

/** `/v1/events?channel=a&channel=b`: many channels over one stream. */
void listen_to_many(http_session& s) {
  if (auto known = s.target().only({"channel", "after", "format"}); !known) return s.fail(known.error());
  auto names = s.target().all("channel");
  std::ranges::sort(names);
  names.erase(std::ranges::unique(names).begin(), names.end());
  if (names.empty()) return s.fail({errc::invalid_argument, "name at least one channel: /v1/events?channel=a&channel=b"});
  if (names.size() > s.home().limits().max_subscriptions)
    return s.fail({errc::too_many, "that is more channels than one connection may listen to"});
  auto from = start_of(s);
  if (!from) return s.fail(from.error());
  auto format = s.target().format(wire_format::event);
  if (!format) return s.fail(format.error());
  std::vector<listen_request> asked;
  for (const auto name : names) {
    if (auto named = bus::check_channel(name); !named) return s.fail(named.error());
    if (auto may = authorise(s.home(), s.who(), right::listen, name); !may) return s.fail(may.error());
    asked.push_back({.channel = std::string{name}, .from = *from});
  }
  const auto as = *format == wire_format::event ? form::sse_event : form::sse_payload;
  s.prepare_all(std::move(asked), [&s, as](std::vector<listen_request> ready) {
    auto head = stream_head("text/event-stream; charset=utf-8", s.common_headers());
    s.become<stream_multi>(std::move(ready), as, std::move(head));
  });
}

void many_over_websocket(http_session& s) {
  if (!wants_websocket(s.request())) return s.fail({errc::upgrade_required, "/v1/ws is a WebSocket: connect with Upgrade: websocket"});
  auto accepted = check_upgrade(s.request());
  if (!accepted) {
    s.common_headers() += "Sec-WebSocket-Version: 13\r\n";
    return s.fail(accepted.error());
  }
  // Each operation is checked against the token's grants; without any token there is nothing it could do.
  if (s.home().shared().tokens.load() && s.who() == nullptr) return s.fail(unauthorised(false));
  std::string head;
  append_upgrade_response(head, *accepted, true);
  s.before_upgrade(std::move(head));
  s.become<websocket_multi>();
}

// --- Tables

asio::awaitable<void> listen_to_known_table(loop& home, std::shared_ptr<session*> weak, std::string table) {
  const auto channel = co_await home.shared().behind.feed_channel(table);
  auto* const s = static_cast<http_session*>(*weak);
  if (s == nullptr || s->closed()) co_return;
  if (channel && permits(home, s->who(), right::listen, *channel)) co_return listen(*s, *channel, true);
  // Whom the table's channel is closed to is answered by the name alone, as if there were no such table.
  if (auto may = authorise(home, s->who(), right::listen, feed_named(table)); !may) co_return s->fail(may.error());
  s->fail(channel ? feeds::not_watched(table) : channel.error());
}

/** `/v1/tables/{table}`. The database is asked which feed it is only for those to whom it may be open. */
void listen_to_table(http_session& s, const std::string& table) {
  if (!may_name_table(s.home(), s.who(), table))
    if (auto may = authorise(s.home(), s.who(), right::listen, feed_named(table)); !may) return s.fail(may.error());
  s.home().spawn("feed", listen_to_known_table(s.home(), s.weak(), table));
}

// --- The rest

void serve_file(http_session& s) {
  std::string path{s.target().path().substr(1)};
  if (path.empty()) path = "index.html";
  const auto content = embedded_web::find(path);
  if (content.data() == nullptr) return s.fail({errc::not_found, "there is nothing here; see the list of addresses in docs/protocol.md"});
  struct type {
    std::string_view ending, media;
  };
  constexpr type types[] = {{".html", "text/html; charset=utf-8"},
                            {".js", "text/javascript; charset=utf-8"},
                            {".css", "text/css; charset=utf-8"},
                            {".svg", "image/svg+xml"},
                            {".png", "image/png"},
                            {".json", "application/json"},
                            {".ico", "image/x-icon"},
                            {".woff2", "font/woff2"}};
  const auto found = std::ranges::find_if(types, [&](const type& t) { return path.ends_with(t.ending); });
  response answer{.content_type = found == std::end(types) ? std::string_view{"application/octet-stream"} : found->media,
                  .body = std::string{content}};
  answer.headers =
      "Cache-Control: no-cache\r\n"
      "Content-Security-Policy: default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n"
      "Referrer-Policy: no-referrer\r\n";
  s.respond(std::move(answer));
}

void health(http_session& s) {
  const auto& shared = s.home().shared();
  const bool live = s.target().segments()[1] == "live";
  const bool ok = live || (shared.behind.ready() && !shared.draining.load());
  if (ok) return s.respond({.status = 200, .body = "ok\n"});
  const auto why = shared.draining.load() ? std::string{"draining"} : shared.behind.problem();
  s.respond({.status = 503, .body = (why.empty() ? "the database is not connected" : why) + '\n'});
}

void preflight(http_session& s) {
  s.common_headers() +=
      "Access-Control-Allow-Methods: GET, POST, OPTIONS\r\n"
      "Access-Control-Allow-Headers: Authorization, Content-Type, Last-Event-ID\r\n"
      "Access-Control-Max-Age: 600\r\n";
  s.respond({.status = 204});
}

}  // namespace

void route(http_session& s) {
  const auto& request = s.request();
  const auto origin = request.header("origin");
  const auto caller = check_caller(s.home().shared().options.origins, {request.header("host"), origin, request.header("sec-fetch-site")});
  if (!caller) {
    metrics::add(metrics::counter::requests_denied);
    return s.fail(caller.error());
  }
  if (*caller == caller::allowed && origin)
    s.common_headers() += "Access-Control-Allow-Origin: " + std::string{*origin} +
                          "\r\nVary: Origin\r\nAccess-Control-Expose-Headers: Postbus-Position, Postbus-Gap, Postbus-Reset\r\n";
  if (request.method() == http_method::options) return preflight(s);

  const auto& path = s.target().segments();
  const auto is = [&](std::initializer_list<std::string_view> wanted) { return std::ranges::equal(path, wanted); };
  const bool posting = request.method() == http_method::post;
  if (path.size() == 3 && path[0] == "v1" && path[1] == "channels" && posting) {
    if (auto known = s.target().only({}); !known) return s.fail(known.error());
    const std::string content_type{request.header("content-type").value_or("")};
    return post(s, path[2], content_type, s.request().take_body(), false);
  }
  if (path.size() == 4 && path[0] == "v1" && path[1] == "channels" && path[3] == "ack" && posting) return ack(s, path[2]);
  if (path.size() == 4 && path[0] == "v1" && path[1] == "channels" && path[3] == "ack")
    return s.fail(
        {errc::method_not_allowed, "an acknowledgement is posted: POST /v1/channels/{channel}/ack?consumer=NAME&position=POSITION"});
  if (is({"post"})) return classic_post(s);
  if (request.method() != http_method::get && request.method() != http_method::head)
    return s.fail({errc::method_not_allowed, std::string{request.method_text()} + " is not answered here"});

  if (path.size() == 3 && path[0] == "v1" && path[1] == "channels") return listen(s, path[2]);
  if (path.size() == 3 && path[0] == "v1" && path[1] == "tables") return listen_to_table(s, path[2]);
  if (is({"v1", "events"})) return listen_to_many(s);
  if (is({"v1", "ws"})) return many_over_websocket(s);
  if (is({"wait"})) return classic_wait(s);
  if (is({"health", "live"}) || is({"health", "ready"})) return health(s);
  if (is({"metrics"}) || is({"v1", "status"})) {
    if (auto may = authorise_admin(s.home(), s.who()); !may) return s.fail(may.error());
    if (path.size() == 1) return s.respond({.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics::exposition()});
    return gather_status(s.home(), [weak = s.weak()](std::string body) {
      auto* const self = static_cast<http_session*>(*weak);
      if (self != nullptr && !self->closed()) self->respond({.content_type = json_type, .body = std::move(body)});
    });
  }
  serve_file(s);
}

}  // namespace postbus::gateway
