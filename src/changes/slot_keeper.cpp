#include "changes/slot_keeper.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <unistd.h>

#include <algorithm>
#include <random>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/number.hpp"
#include "embedded_sql.hpp"

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using lifetime = postgres::replication_stream::lifetime;
using postgres::parameter;

constexpr auto statement_deadline = 10s;
constexpr auto look_again = 100ms;

std::string temporary_name() {
  std::random_device random;
  return fmt::format("postbus_{}_{:08x}", ::getpid(), random());
}

/**
 * Has the slot read from `resume_lsn` on, where it holds that; what lies before its acknowledged place is not there any more. What lies
 * before `epoch_from` had positions of an epoch that is over, and is not read again for others.
 */
bool begin_at(postgres::replication_stream& stream, std::uint64_t resume_lsn, std::uint64_t epoch_from) {
  const bool holds = resume_lsn == 0 || stream.start_lsn() <= resume_lsn;
  stream.skip_to(std::max(resume_lsn, epoch_from));
  return holds;
}

}  // namespace

slot_keeper::slot_keeper(asio::any_io_executor executor, settings given, std::function<void(std::string)> waiting)
    : settings_{given}, waiting_{std::move(waiting)}, timer_{executor} {
  past_.wanted = given.wanted;
}

void slot_keeper::stop() {
  stopped_ = true;
  timer_.cancel();
}

asio::awaitable<result<slot_facts>> slot_keeper::ask(postgres::connection& ordinary, choice& chosen) {
  auto found = co_await ordinary.query(embedded_sql::find("statements/changes/slot_facts.sql"), {}, statement_deadline);
  if (!found) co_return found.error();
  slot_facts facts;
  facts.name = found->text(0, 0);
  facts.bounded = found->is_true(0, 1);
  facts.published = found->is_true(0, 2);
  facts.publication = number<std::uint32_t>(found->text(0, 3));
  facts.recorded_publication = number<std::uint32_t>(found->text(0, 4));
  facts.recorded = found->is_true(0, 5);
  facts.exists = found->is_true(0, 6);
  facts.usable = found->is_true(0, 7);
  facts.lost = found->is_true(0, 8);
  facts.active_pid = number<int>(found->text(0, 9));
  facts.confirmed_lsn = number<std::uint64_t>(found->text(0, 10));
  chosen.flushed_lsn = number<std::uint64_t>(found->text(0, 11));
  chosen.epoch = number<std::uint32_t>(found->text(0, 12));
  facts.epoch_from = number<std::uint64_t>(found->text(0, 13));
  co_return facts;
}

asio::awaitable<result<std::size_t>> slot_keeper::carry_out(postgres::connection& ordinary, std::string_view statement,
                                                            std::string parameter_text) {
  const parameter parameters[] = {parameter_text};
  auto done = co_await ordinary.query(embedded_sql::find(statement), parameters, statement_deadline);
  if (!done) co_return done.error();
  co_return done->size();
}

asio::awaitable<result<>> slot_keeper::record(postgres::connection& ordinary, const slot_facts& facts) {
  const auto publication = std::to_string(facts.publication);
  const parameter parameters[] = {facts.name, publication};
  auto recorded = co_await ordinary.query(embedded_sql::find("statements/changes/record_slot.sql"), parameters, statement_deadline);
  if (!recorded) co_return recorded.error();
  co_return result<>{};
}

asio::awaitable<result<slot_keeper::choice>> slot_keeper::take(postgres::connection& ordinary, postgres::replication_stream& stream,
                                                               std::uint32_t epoch, std::uint64_t resume_lsn) {
  const auto give_up_waiting = steady::now() + settings_.patience;
  past_.waited = false;
  choice chosen;
  for (;;) {
    auto facts = co_await ask(ordinary, chosen);
    if (!facts) co_return facts.error();
    if (chosen.flushed_lsn < resume_lsn) {
      log::warning("changes", "the database's WAL went backwards: it was restored; positions start anew");
      if (auto drawn = co_await carry_out(ordinary, "statements/changes/new_epoch.sql", std::to_string(epoch)); !drawn)
        co_return drawn.error();
      resume_lsn = 0;
      continue;
    }
    const auto plan = plan_slot(*facts, past_);
    chosen.publication = facts->publication;
    if (!plan.why.empty() && plan.why != last_why_) log::warning("changes", "{}", plan.why);
    last_why_ = plan.why;
    switch (plan.next) {
      case slot_plan::step::wait: {
        if (stopped_) co_return error{errc::unavailable, "the reader is being stopped"};
        waiting_(plan.why);
        if (reader_pid_ == facts->active_pid) {
          auto ended = co_await carry_out(ordinary, "statements/changes/end_reader.sql", std::to_string(reader_pid_));
          if (!ended && ended.error().code != errc::database) co_return ended.error();
        }
        past_.waited = steady::now() >= give_up_waiting;
        timer_.expires_after(look_again);
        co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
        continue;
      }
      case slot_plan::step::mend: {
        waiting_(plan.why);
        auto mended = co_await ordinary.query(embedded_sql::find("statements/changes/mend_feeds.sql"), {}, statement_deadline);
        if (!mended) co_return error{errc::unavailable, "the publication postbus is missing and cannot be made", mended.error().detail};
        past_.poisoned = true;
        continue;
      }
      case slot_plan::step::copy: {
        chosen.held = facts->name;
        chosen.publication = facts->recorded_publication;
        auto copied = co_await stream.copy_slot(facts->name, temporary_name());
        if (copied) {
          past_.poisoned = past_.given_up = false;  // that was said of a slot before this one, or its reader will find out
          chosen.goes_on = begin_at(stream, resume_lsn, facts->epoch_from);
          co_return chosen;
        }
        if (copied.error().code != errc::database) co_return copied.error();
        log::warning("changes", "the slot {} cannot be copied, and a temporary one takes its place: {}", facts->name, copied.error());
        chosen.publication = facts->publication;
        [[fallthrough]];
      }
      case slot_plan::step::temporary: {
        auto made = co_await make(ordinary, stream, temporary_name(), lifetime::session);
        if (!made) co_return made.error();
        co_return chosen;
      }
      case slot_plan::step::go_on: {
        chosen.permanent = true;
        if (!facts->recorded)  // it was made, and its maker died before this
          if (auto recorded = co_await record(ordinary, *facts); !recorded) co_return recorded.error();
        stream.use_slot(facts->name, facts->confirmed_lsn);
        chosen.goes_on = begin_at(stream, resume_lsn, facts->epoch_from);
        reader_pid_ = stream.backend_pid();
        co_return chosen;
      }
      case slot_plan::step::make_anew: {
        if (facts->exists) {
          auto dropped = co_await carry_out(ordinary, "statements/changes/drop_slot.sql", facts->name);
          if (!dropped) co_return dropped.error();
          if (*dropped == 0) continue;  // another gateway reads it by now, or has made it anew itself
        }
        if (auto drawn = co_await carry_out(ordinary, "statements/changes/new_epoch.sql", std::to_string(epoch)); !drawn)
          co_return drawn.error();
        [[fallthrough]];
      }
      case slot_plan::step::make: {
        chosen.permanent = true;
        if (auto made = co_await make(ordinary, stream, facts->name, lifetime::permanent); !made) co_return made.error();
        if (auto recorded = co_await record(ordinary, *facts); !recorded) co_return recorded.error();
        past_.poisoned = past_.given_up = false;
        reader_pid_ = stream.backend_pid();
        co_return chosen;
      }
    }
  }
}

asio::awaitable<std::string> slot_keeper::running_writers(postgres::connection& ordinary) {
  auto found = co_await ordinary.query(embedded_sql::find("statements/changes/running_writers.sql"), {}, statement_deadline);
  std::string text;
  if (found)
    for (std::size_t row = 0; row < found->size(); ++row)
      text += fmt::format("{}{} for {} s", row == 0 ? "" : "; ", found->text(row, 0), found->text(row, 1));
  co_return text;
}

asio::awaitable<result<>> slot_keeper::make(postgres::connection& ordinary, postgres::replication_stream& stream, std::string name,
                                            lifetime l) {
  const auto writers = co_await running_writers(ordinary);
  if (!writers.empty()) {
    waiting_("a new replication slot waits for the end of running transactions: " + writers);
    log::warning("changes", "the replication slot waits for the end of running transactions that write: {}", writers);
  }
  auto made = co_await stream.create_slot(std::move(name), l);
  if (made || made.error().code != errc::timed_out) co_return made;
  const auto still = co_await running_writers(ordinary);
  co_return error{errc::timed_out, still.empty()
                                       ? "the replication slot was not ready in time"
                                       : "the replication slot waits for running transactions: end them, or wait for them: " + still};
}

}  // namespace postbus::changes
