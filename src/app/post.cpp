#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <functional>

#include "app/commands.hpp"
#include "app/database_session.hpp"
#include "app/line_reader.hpp"
#include "app/terminal.hpp"
#include "base/json_text.hpp"
#include "bus/channel.hpp"
#include "client/problem.hpp"

namespace postbus::app {
namespace {

/** Lines posted in one transaction: those that are here, up to these bounds. A commit per line would cost a sync of the WAL each. */
constexpr std::size_t batch_lines = 1'000, batch_bytes = 1u << 20;

using batch = std::vector<std::string>;
/** Posts all of a batch, or says why it posted none; for a way without transactions `posted` counts those that were. */
using poster = std::function<result<>(const batch& payloads, std::size_t& posted)>;

/** The elements as the text of a PostgreSQL array (manual, section 8.15.6). */
std::string array_text(const batch& payloads) {
  std::string out{'{'};
  for (const auto& payload : payloads) {
    out += out.size() == 1 ? "\"" : ",\"";
    for (const char c : payload) {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
    out += '"';
  }
  return out += '}';
}

result<> check_payload(std::string_view payload, bool json) {
  if (!is_utf8(payload)) return error{errc::unsupported_media, "it is not UTF-8: encode binary data (base64, say) before posting it"};
  if (payload.find('\0') != std::string_view::npos)
    return error{errc::unsupported_media, "it holds a NUL byte, which PostgreSQL's text cannot"};
  if (json && !is_json(payload))
    return error{errc::invalid_argument, R"(it is not JSON: a text is written "in quotes", or posted without --json)"};
  return {};
}

result<> post_lines(const poster& send, bool json) {
  line_reader in{STDIN_FILENO};
  progress_line progress;
  std::size_t done = 0;
  batch waiting;
  std::size_t waiting_bytes = 0;
  const auto flush = [&]() -> result<> {
    if (waiting.empty()) return {};
    std::size_t posted = 0;
    const auto sent = send(waiting, posted);
    done += posted;
    if (!sent)
      return error{sent.error().code, fmt::format("{} lines posted; line {} and those after it not: {}", done, done + 1, sent.error().text),
                   sent.error().detail};
    waiting.clear();
    waiting_bytes = 0;
    progress.show(fmt::format("{} lines posted", grouped(static_cast<long long>(done))));
    return {};
  };
  for (;;) {
    auto line = in.next();
    if (!line || !*line) {
      if (const auto sent = flush(); !sent) return sent;
      if (!line) return line.error();
      return {};
    }
    if (const auto fine = check_payload(**line, json); !fine) {
      if (const auto sent = flush(); !sent) return sent;
      return error{fine.error().code,
                   fmt::format("{} lines posted; line {} and those after it not: {}", done, done + 1, fine.error().text)};
    }
    waiting_bytes += (*line)->size();
    waiting.push_back(std::move(**line));
    if (!in.ready() || waiting.size() == batch_lines || waiting_bytes >= batch_bytes)
      if (const auto sent = flush(); !sent) return sent;
  }
}

int post_all(const post_options& options, const poster& send) {
  if (options.lines) {
    const auto sent = post_lines(send, options.json);
    return sent ? exit_ok : tell(sent.error());
  }
  if (const auto fine = check_payload(options.payload, options.json); !fine)
    return tell(error{fine.error().code, "the payload cannot be posted: " + fine.error().text});
  std::size_t posted = 0;
  const auto sent = send({options.payload}, posted);
  return sent ? exit_ok : tell(sent.error());
}

int post_by_sql(const std::string& database, const post_options& options) {
  auto session = database_session::open_checked(database);
  if (!session) return tell(session.error());
  const auto statement = options.json ? "statements/cli/post_json.sql" : "statements/cli/post_text.sql";
  return post_all(options, [&](const batch& payloads, std::size_t& posted) -> result<> {
    const auto array = array_text(payloads);
    const std::array<postgres::parameter, 2> parameters{options.channel, array};
    const auto done = session->run(statement, parameters);
    if (!done) return done.error();
    posted = payloads.size();
    return {};
  });
}

int post_by_gateway(const targets& at, const std::string& gateway, const post_options& options) {
  auto to = connect_client(at, gateway);
  return post_all(options, [&](const batch& payloads, std::size_t& posted) -> result<> {
    for (const auto& payload : payloads) {
      try {
        options.json ? to.post_json(options.channel, payload) : to.post(options.channel, payload);
      } catch (const request_error& why) {
        return error{remote::parse_errc(why.code()), why.what()};
      }
      ++posted;
    }
    return {};
  });
}

}  // namespace

int post(const targets& at, const post_options& options) {
  if (const auto fine = bus::check_post_channel(options.channel); !fine) return tell(fine.error());
  // SQL is the shorter way; the gateway is taken where it is what was named.
  if (!at.gateway.empty() && (at.database.empty() || at.gateway_first)) return post_by_gateway(at, at.gateway, options);
  const auto database = database_of(at);
  if (!database) return tell_unattached(database.error());
  return post_by_sql(*database, options);
}

}  // namespace postbus::app
