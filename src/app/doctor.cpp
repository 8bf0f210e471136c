#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "app/commands.hpp"
#include "app/database_session.hpp"
#include "app/terminal.hpp"
#include "postgres/migrations.hpp"
#include "postgres/probe.hpp"

namespace postbus::app {
namespace {

namespace json = boost::json;
using postgres::finding;

constexpr std::chrono::seconds probe_patience{30};

style style_of(finding::severity level) {
  switch (level) {
    case finding::severity::ok: return style::good;
    case finding::severity::note: return style::name;
    case finding::severity::warning: return style::warn;
    case finding::severity::problem: return style::bad;
  }
  return style::plain;
}

std::string as_json(const postgres::database_facts& facts, const postgres::tier& tier, const std::vector<finding>& findings) {
  json::array list;
  for (const auto& f : findings)
    list.push_back({{"level", postgres::name(f.level)}, {"subject", f.subject}, {"what", f.what}, {"why", f.why}, {"fix", f.fix}});
  const json::object document{{"server_version", facts.server_version},
                              {"database", facts.database},
                              {"role", facts.role},
                              {"schema_version", facts.schema_version},
                              {"tier", {{"name", postgres::name(tier.transport)}, {"reason", tier.reason}, {"fix", tier.fix}}},
                              {"findings", std::move(list)}};
  return json::serialize(document);
}

/** The findings one under the other; what is not well is explained below the table, with the fix on lines of its own for copying. */
void print(const postgres::database_facts& facts, const postgres::tier& tier, const std::vector<finding>& findings) {
  const terminal on{stdout};
  fmt::print("PostgreSQL {}, database {}, role {}: messages travel by {}\n\n", facts.version_text, visible(facts.database),
             visible(facts.role), on.paint(style::strong, tier.transport == postgres::tier::kind::wal ? "the WAL" : "NOTIFY"));
  table out{{{}, {}, {}}};
  for (const auto& f : findings) out.add({{std::string{postgres::name(f.level)}, style_of(f.level)}, {f.subject, style::strong}, {f.what}});
  fmt::print("{}", out.text(on));
  for (const auto& f : findings) {
    if (f.why.empty() && f.fix.empty()) continue;
    fmt::print("\n{} {}\n", on.paint(style_of(f.level), f.subject + ":"), visible(f.why.empty() ? f.what : f.why));
    if (!f.fix.empty()) fmt::print("  {} {}\n", on.paint(style::faint, "fix:"), f.fix);
  }
}

}  // namespace

int doctor(const targets& at, const doctor_options& options) {
  const auto database = database_of(at);
  if (!database) return tell_unattached(database.error());
  const auto direct = at.database_direct.empty() ? *database : at.database_direct;
  const auto facts = run_once<result<postgres::database_facts>>(postgres::probe(*database, direct, probe_patience));
  if (!facts) return tell(facts.error());
  const auto tier = postgres::choose_tier(*facts);
  const auto findings = postgres::examine(*facts, postgres::schema_version());
  if (options.json)
    fmt::print("{}\n", as_json(*facts, tier, findings));
  else
    print(*facts, tier, findings);
  const bool sound = std::ranges::none_of(findings, [](const finding& f) { return f.level == finding::severity::problem; });
  return sound ? exit_ok : exit_failed;
}

}  // namespace postbus::app
