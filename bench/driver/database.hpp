#pragma once
#include <libpq-fe.h>

#include <memory>
#include <string>

#include "driver/sockets.hpp"

namespace bench {

struct finish_session {
  void operator()(PGconn* session) const { PQfinish(session); }
};
struct clear_result {
  void operator()(PGresult* rows) const { PQclear(rows); }
};
using session_ptr = std::unique_ptr<PGconn, finish_session>;
using result_ptr = std::unique_ptr<PGresult, clear_result>;

inline session_ptr open_session(const std::string& conninfo) {
  session_ptr session{PQconnectdb(conninfo.c_str())};
  if (PQstatus(session.get()) != CONNECTION_OK) throw failure{PQerrorMessage(session.get())};
  return session;
}

inline result_ptr expect(PGconn* session, PGresult* made, ExecStatusType wanted = PGRES_TUPLES_OK) {
  result_ptr rows{made};
  const auto status = PQresultStatus(rows.get());
  if (status != wanted && !(wanted == PGRES_TUPLES_OK && status == PGRES_COMMAND_OK)) throw failure{PQerrorMessage(session)};
  return rows;
}

inline result_ptr execute(PGconn* session, const std::string& sql, ExecStatusType wanted = PGRES_TUPLES_OK) {
  return expect(session, PQexec(session, sql.c_str()), wanted);
}

}  // namespace bench
