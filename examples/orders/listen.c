/* The loop of the manual's libpq example program 2: LISTEN, then select() on PQsocket(), PQconsumeInput(),
 * PQnotifies(). Prints each payload on a line of its own. Usage: listen CONNINFO CHANNEL */
#include <errno.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  PGconn* conn = PQconnectdb(argv[1]);
  if (PQstatus(conn) != CONNECTION_OK) {
    fprintf(stderr, "%s", PQerrorMessage(conn));
    return 1;
  }
  char* channel = PQescapeIdentifier(conn, argv[2], __builtin_strlen(argv[2]));
  char listen[300];
  snprintf(listen, sizeof listen, "LISTEN %s", channel);
  PGresult* res = PQexec(conn, listen);
  if (PQresultStatus(res) != PGRES_COMMAND_OK) {
    fprintf(stderr, "LISTEN: %s", PQerrorMessage(conn));
    return 1;
  }
  PQclear(res);
  PQfreemem(channel);
  puts("listening");
  fflush(stdout);
  for (;;) {
    int sock = PQsocket(conn);
    fd_set input_mask;
    PGnotify* notify;
    if (sock < 0) return 1;
    FD_ZERO(&input_mask);
    FD_SET(sock, &input_mask);
    if (select(sock + 1, &input_mask, NULL, NULL, NULL) < 0 && errno != EINTR) {
      perror("select");
      return 1;
    }
    if (!PQconsumeInput(conn)) {
      fprintf(stderr, "%s", PQerrorMessage(conn));
      return 1;
    }
    while ((notify = PQnotifies(conn)) != NULL) {
      puts(notify->extra);
      fflush(stdout);
      PQfreemem(notify);
      PQconsumeInput(conn);
    }
  }
}
