// Books each payment of the stream `payments` exactly once: its effect and its position are stored in one transaction.
// Usage: ledger DATABASE [GATEWAY]   (http://127.0.0.1:7432 when left out; POSTBUS_TOKEN is sent where set)
//
// It may be killed at any point, and starts in one way only: from the position that its database holds. So whatever it cannot
// mend (a lost session, a gap) ends it, and what keeps it running starts it again.
#include <libpq-fe.h>
#include <postbus/client.hpp>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

constexpr int most_in_one_transaction = 100;

/** One session. A statement that fails throws; the session ends with the program, and its open transaction is undone. */
class database {
public:
  explicit database(const char* url) : session_{PQconnectdb(url), PQfinish} {
    if (PQstatus(session_.get()) != CONNECTION_OK) throw std::runtime_error{PQerrorMessage(session_.get())};
  }

  /** The first value that the statement returns; empty when it returns none. */
  std::string run(const char* statement) {
    return answer(PQexecParams(session_.get(), statement, 0, nullptr, nullptr, nullptr, nullptr, 0));
  }
  std::string run(const char* statement, const std::string& parameter) {
    const char* const value = parameter.c_str();
    return answer(PQexecParams(session_.get(), statement, 1, nullptr, &value, nullptr, nullptr, 0));
  }

private:
  std::string answer(PGresult* got) {
    const std::unique_ptr<PGresult, decltype(&PQclear)> result{got, PQclear};
    const auto status = PQresultStatus(got);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) throw std::runtime_error{PQerrorMessage(session_.get())};
    return PQntuples(got) > 0 ? PQgetvalue(got, 0, 0) : std::string{};
  }

  std::unique_ptr<PGconn, decltype(&PQfinish)> session_;
};

/** After a gap or a reset payments may be missing; a gap of reason `notify` is of plain NOTIFY alone, and payments are posted. */
bool stops(const postbus::event& e) {
  return e.is_notice() && !(e.kind == postbus::event_kind::gap && e.payload.find(R"("reason":"notify")") != std::string::npos);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) throw std::invalid_argument{"usage: ledger DATABASE [GATEWAY]"};
  database books{argv[1]};
  const char* token = std::getenv("POSTBUS_TOKEN");
  const postbus::client gateway{argc > 2 ? argv[2] : "http://127.0.0.1:7432", {.token = token ? token : ""}};

  const std::string position = books.run("select position from ledger_position where channel = 'payments'");
  postbus::listen_options options;
  options.after = position.empty() ? "beginning" : position;
  options.on_link = [](postbus::link_state state, std::string_view why) {
    if (state == postbus::link_state::lost) std::cerr << "lost the gateway, coming back: " << why << '\n';
  };
  postbus::listener payments = gateway.listen({"payments"}, options);
  std::cout << "going on after " << options.after << std::endl;

  while (true) {
    auto event = payments.next(std::chrono::minutes{1});
    if (!event) continue;  // a quiet minute

    // One transaction for what has come: a busy stream pays for one commit, a quiet one waits for nothing.
    int booked = 0;
    std::string last;
    books.run("begin");
    for (int taken = 1; event && !stops(*event); ++taken) {
      last = event->position;
      if (books.run("select book($1)", postbus::to_json(*event)) == "t") ++booked;
      event = taken < most_in_one_transaction && payments.ready() ? payments.next(std::chrono::milliseconds{0}) : std::nullopt;
    }
    books.run("commit");
    if (!last.empty()) std::cout << "booked " << booked << ", up to " << last << std::endl;
    // What is missing cannot be booked, and a balance without it would be wrong. The position stays before the gap.
    if (event) throw std::runtime_error{"payments may be missing, nothing is booked from here on: " + postbus::to_json(*event)};
  }
} catch (const std::exception& failure) {
  std::cerr << "ledger: " << failure.what() << '\n';
  return EXIT_FAILURE;
}
