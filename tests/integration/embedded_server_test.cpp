// The embedded PostgreSQL: started, supervised, stopped; and each way it can be refused, with nothing damaged.
#include "postgres/embedded_server.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <thread>

#include "postgres/child_process.hpp"
#include "postgres/data_folder.hpp"
#include "support/cluster.hpp"

namespace postbus {
namespace {

namespace fs = std::filesystem;
using postgres::embedded_server;
using testing_support::cluster;
using testing_support::session;
using testing_support::temporary_folder;

TEST(embedded_server, is_set_up_for_replication_and_kept_private) {
  auto& here = cluster::shared();
  EXPECT_EQ(here.psql("show wal_level"), "logical");
  EXPECT_EQ(here.psql("show max_slot_wal_keep_size"), "1GB");
  EXPECT_EQ(here.psql("show listen_addresses"), "127.0.0.1");
  EXPECT_EQ(here.psql("show server_encoding"), "UTF8");
  EXPECT_EQ(here.psql("select count(*) from pg_hba_file_rules where auth_method <> 'scram-sha-256'"), "0");
  struct stat found{};
  ASSERT_EQ(::stat((here.server().folder() / "password").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0600U);
  ASSERT_EQ(::stat(here.server().sockets().c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0700U);
  // TCP on the loopback with the password, and not without it.
  EXPECT_EQ(session{here.url_as("postgres", here.server().password(), "postbus")}.psql("select 1"), "1");
  EXPECT_THROW(session{here.url_as("postgres", "wrong", "postbus")}, std::runtime_error);
}

TEST(embedded_server, does_not_show_its_password_to_other_users) {
  auto& here = cluster::shared();
  std::ifstream line{"/proc/" + std::to_string(here.server().pid()) + "/cmdline"};
  const std::string arguments{std::istreambuf_iterator<char>{line}, {}};
  ASSERT_FALSE(arguments.empty());
  EXPECT_EQ(arguments.find(here.server().password()), std::string::npos);
}

TEST(embedded_server, comes_back_when_killed_and_keeps_its_data) {
  auto& here = cluster::shared();
  here.psql("create table kept(v int); insert into kept values (7)");
  here.kill_postmaster();
  EXPECT_EQ(here.psql("select v from kept"), "7");
  here.restart();
  EXPECT_EQ(here.psql("select v from kept; "), "7");
}

TEST(embedded_server, stops_also_when_a_restart_is_asked_for_meanwhile) {
  const temporary_folder folder;
  auto started = embedded_server::start({.data = folder.path() + "/d"});
  ASSERT_TRUE(started) << started.error().text << started.error().detail;
  // Shared with a thread that is left behind where stop() does not return.
  const auto server = std::make_shared<embedded_server>(std::move(*started));
  const auto stopped = std::make_shared<std::promise<void>>();
  std::thread{[server, stopped] {
    server->stop();
    stopped->set_value();
  }}.detach();
  while (server->ready()) std::this_thread::yield();  // it is asked to end, and writes its checkpoint
  const auto refused = server->restart();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::unavailable) << refused.error().text;
  EXPECT_EQ(stopped->get_future().wait_for(std::chrono::seconds{60}), std::future_status::ready);
}

TEST(embedded_server, keeps_data_password_and_port_over_a_stop) {
  const temporary_folder folder;
  std::string url;
  {
    auto first = embedded_server::start({.data = folder.path() + "/d"});
    ASSERT_TRUE(first) << first.error().text << first.error().detail;
    url = first->url();
    session{url}.psql("create table kept(v int); insert into kept values (7)");
  }
  auto second = embedded_server::start({.data = folder.path() + "/d"});
  ASSERT_TRUE(second) << second.error().text << second.error().detail;
  EXPECT_EQ(second->url(), url);
  EXPECT_EQ(session{url}.psql("select v from kept"), "7");
}

TEST(embedded_server, refuses_a_second_serve_on_its_folder) {
  auto& here = cluster::shared();
  const auto second = embedded_server::start({.data = here.server().folder()});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, errc::conflict);
  EXPECT_NE(second.error().text.find("(pid " + std::to_string(::getpid()) + ")"), std::string::npos) << second.error().text;
  EXPECT_EQ(here.psql("select 1"), "1");
}

TEST(embedded_server, tells_other_commands_how_to_reach_it_while_it_runs) {
  const temporary_folder folder;
  const fs::path data = folder.path() + "/d";
  EXPECT_EQ(postgres::read_attachment(data).error().code, errc::not_found);
  {
    auto server = embedded_server::start({.data = data});
    ASSERT_TRUE(server);
    EXPECT_EQ(postgres::read_attachment(data).error().code, errc::unavailable);
    ASSERT_TRUE(server->publish("http://127.0.0.1:7432"));
    const auto at = postgres::read_attachment(data);
    ASSERT_TRUE(at) << at.error().text;
    EXPECT_EQ(at->url, server->url());
    EXPECT_EQ(at->gateway, "http://127.0.0.1:7432");
    EXPECT_EQ(at->pid, ::getpid());
    struct stat found{};
    ASSERT_EQ(::stat((data / "attach.json").c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 07777, 0600U);
  }
  EXPECT_EQ(postgres::read_attachment(data).error().code, errc::not_found);
}

TEST(embedded_server, refuses_a_folder_of_another_major_version) {
  const temporary_folder folder;
  {
    ASSERT_TRUE(embedded_server::start({.data = folder.path() + "/d"}));
  }
  const auto version = folder.path() + "/d/postgres/PG_VERSION";
  std::string before;
  std::ifstream{version} >> before;
  std::ofstream{version} << "9\n";
  const auto refused = embedded_server::start({.data = folder.path() + "/d"});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::unsupported);
  EXPECT_NE(refused.error().text.find("made by PostgreSQL 9"), std::string::npos) << refused.error().text;
  std::ofstream{version} << before << "\n";
  EXPECT_TRUE(embedded_server::start({.data = folder.path() + "/d"}));  // nothing was damaged
}

TEST(embedded_server, refuses_a_folder_that_is_not_its_own) {
  const temporary_folder folder;
  std::ofstream{folder.path() + "/letter"} << "dear";
  const auto refused = embedded_server::start({.data = folder.path()});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::conflict);
  EXPECT_NE(refused.error().text.find("was not made by Postbus"), std::string::npos) << refused.error().text;
  EXPECT_EQ(std::distance(fs::directory_iterator{folder.path()}, {}), 1);

  std::ofstream{folder.path() + "/file"} << "x";
  EXPECT_EQ(embedded_server::start({.data = folder.path() + "/file"}).error().code, errc::conflict);
}

TEST(embedded_server, says_what_is_missing_when_there_is_no_postgresql) {
  const temporary_folder folder;
  const auto refused = embedded_server::start({.data = folder.path() + "/d", .binaries = folder.path()});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::unsupported);
  EXPECT_NE(refused.error().text.find("--pg-bin"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder.path() + "/d"));
}

TEST(embedded_server, refuses_a_port_in_use_and_moves_a_chosen_one) {
  const temporary_folder folder;
  auto& here = cluster::shared();
  const auto refused = embedded_server::start({.data = folder.path() + "/d", .port = here.server().port()});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::conflict);
  EXPECT_NE(refused.error().text.find("port " + std::to_string(here.server().port())), std::string::npos) << refused.error().text;
  std::ofstream{folder.path() + "/d/port"} << here.server().port() << "\n";  // a port of its own choosing, taken meanwhile
  auto moved = embedded_server::start({.data = folder.path() + "/d"});
  ASSERT_TRUE(moved) << moved.error().text;
  EXPECT_NE(moved->port(), here.server().port());
}

TEST(embedded_server, moves_its_socket_where_the_path_is_too_long) {
  const temporary_folder folder;
  auto server = embedded_server::start({.data = folder.path() + "/" + std::string(90, 'x')});
  ASSERT_TRUE(server) << server.error().text << server.error().detail;
  EXPECT_LT(server->sockets().string().size(), 90U);
  EXPECT_EQ(session{server->url()}.psql("select 1"), "1");
  std::error_code ignored;
  const auto sockets = server->sockets();
  server->stop();
  fs::remove_all(sockets, ignored);
}

TEST(embedded_server, takes_over_from_a_serve_that_was_killed) {
  const temporary_folder folder;
  const fs::path data = folder.path() + "/d";
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {  // a serve of its own process
    auto server = embedded_server::start({.data = data});
    const pid_t said = server ? server->pid() : -1;
    if (::write(ends[1], &said, sizeof said) < 0) ::_exit(1);
    ::pause();
    ::_exit(0);
  }
  pid_t postmaster = -1;
  ASSERT_EQ(::read(ends[0], &postmaster, sizeof postmaster), static_cast<ssize_t>(sizeof postmaster));
  ::close(ends[0]);
  ::close(ends[1]);
  ASSERT_GT(postmaster, 0);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  auto next = embedded_server::start({.data = data});
  ASSERT_TRUE(next) << next.error().text << next.error().detail;
  EXPECT_NE(next->pid(), postmaster);
  std::error_code gone;
  const auto stands = fs::read_symlink("/proc/" + std::to_string(postmaster) + "/cwd", gone);
  EXPECT_TRUE(gone) << "the old server still works in " << stands;
  EXPECT_EQ(session{next->url()}.psql("select 1"), "1");
}

TEST(embedded_server, removes_what_an_interrupted_initdb_left) {
  const temporary_folder folder;
  fs::create_directories(folder.path() + "/d/postgres.new/base");
  std::ofstream{folder.path() + "/d/postbus.lock"};
  EXPECT_TRUE(embedded_server::start({.data = folder.path() + "/d"}));
  EXPECT_FALSE(fs::exists(folder.path() + "/d/postgres.new"));
}

class small_disk {
public:
  explicit small_disk(std::string path, const char* size) : path_{std::move(path)} {
    fs::create_directories(path_);
    mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, (std::string{"mode=711,size="} + size).c_str()) == 0;
  }
  ~small_disk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

private:
  std::string path_;
  bool mounted_;
};

TEST(embedded_server, says_that_the_disk_is_full_and_starts_when_it_is_not) {
  const temporary_folder folder;
  const auto disk = folder.path() + "/disk";
  const small_disk small{disk, "20m"};
  if (!small.mounted()) GTEST_SKIP() << "mounting a small file system needs root";
  const auto refused = embedded_server::start({.data = disk + "/d"});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::io);
  EXPECT_NE(refused.error().text.find("is full"), std::string::npos) << refused.error().text << refused.error().detail;
  EXPECT_FALSE(fs::exists(disk + "/d/postgres"));
  ASSERT_EQ(::mount(nullptr, disk.c_str(), nullptr, MS_REMOUNT, "size=200m"), 0);
  EXPECT_TRUE(embedded_server::start({.data = disk + "/d"}));
}

TEST(embedded_server, survives_a_disk_that_fills_while_it_runs) {
  const temporary_folder folder;
  const auto disk = folder.path() + "/disk";
  const small_disk small{disk, "120m"};
  if (!small.mounted()) GTEST_SKIP() << "mounting a small file system needs root";
  auto server = embedded_server::start({.data = disk + "/d"});
  ASSERT_TRUE(server) << server.error().text << server.error().detail;
  session{server->url()}.psql("create table kept(v int); insert into kept values (7)");
  {
    std::ofstream filler{disk + "/filler", std::ios::binary};
    const std::string block(1U << 20U, 'x');
    while (filler.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
  }
  try {  // until the server itself meets the full disk: an error or a PANIC, both are PostgreSQL's own ways
    session writer{server->url()};
    for (int i = 0; i < 200; ++i)
      writer.psql("create table if not exists big as select repeat('x', 1000) v from generate_series(1, 20000); drop table big");
  } catch (const std::exception&) {
    fs::remove(disk + "/filler");
  }
  fs::remove(disk + "/filler");
  std::string kept;
  for (int attempt = 0; attempt < 2000 && kept.empty(); ++attempt) try {
      kept = session{server->url()}.psql("select v from kept");
    } catch (const std::exception&) {
      std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
  EXPECT_EQ(kept, "7");
}

TEST(embedded_server, refuses_an_unwritable_folder) {
  if (::geteuid() == 0) {
    const auto refused = embedded_server::start({.data = "/proc/postbus"});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, errc::io);
    const temporary_folder folder;  // closed to the user the server runs as
    ASSERT_EQ(::chmod(folder.path().c_str(), 0700), 0);
    const auto closed = embedded_server::start({.data = folder.path() + "/d"});
    ASSERT_FALSE(closed);
    EXPECT_NE(closed.error().text.find("--data DIR"), std::string::npos) << closed.error().text << closed.error().detail;
  } else {
    EXPECT_EQ(embedded_server::start({.data = "/root-of-somebody-else/d"}).error().code, errc::io);
  }
}

}  // namespace
}  // namespace postbus
