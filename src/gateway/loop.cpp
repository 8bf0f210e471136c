#include "gateway/loop.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>

#include <array>
#include <cerrno>
#include <system_error>

#include "base/log.hpp"
#include "base/metrics.hpp"
#include "gateway/http_session.hpp"
#include "gateway/session.hpp"
#include "gateway/status.hpp"

namespace postbus::gateway {
namespace {

namespace asio = boost::asio;

constexpr std::size_t read_buffer_bytes = 64 * 1024;
constexpr int sockets_a_poll = 512;
constexpr int accepts_a_turn = 64;

thread_local loop* current_loop = nullptr;

int checked(int result, const char* what) {
  if (result < 0) throw std::system_error{errno, std::generic_category(), what};
  return result;
}

}  // namespace

server::shared::shared(bus::hub& h, backend& b, gateway_options o)
    : hub{h}, behind{b}, options{std::move(o)}, tokens{options.tokens}, tls{options.tls}, flowing{started, counted_flow()} {}

loop::loop(server::shared& shared)
    : shared_{shared},
      sockets_{context_, checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")},
      bell_{context_, checked(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")},
      tick_{context_},
      next_tick_{steady::now() + timing_wheel::tick},
      shard_{shared.hub, encoders(), [this] { ring(); }},
      read_buffer_(read_buffer_bytes) {
  spare_descriptor_ = checked(::open("/dev/null", O_RDONLY | O_CLOEXEC), "open /dev/null");
}

loop::~loop() {
  while (first_ != nullptr) {
    auto* const gone = first_;
    first_ = gone->next_;
    delete gone;
  }
  if (spare_descriptor_ >= 0) ::close(spare_descriptor_);
}

void loop::ring() {
  // On this very thread the turn's end looks into the inbox anyway.
  if (current_loop == this || rung_.exchange(true)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(bell_.native_handle(), &one, sizeof one);  // fails only when it already rings
}

void loop::post(std::function<void()> work) { asio::post(context_, std::move(work)); }

void loop::spawn(std::string_view name, asio::awaitable<void> work) {
  ++coroutines_;
  asio::co_spawn(context_, std::move(work), [this, name](const std::exception_ptr& failure) {
    --coroutines_;
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& e) {
      log::error("gateway", "{} failed: {}", name, e.what());
    }
  });
}

void loop::run() {
  current_loop = this;
  ++shared_.running;
  if (is_first()) accept_here();
  wait_for_sockets();
  wait_for_bell();
  wait_for_tick();
  while (!context_.stopped()) {
    context_.run_one();
    finish_turn();
  }
  current_loop = nullptr;
  --shared_.running;
  if (!is_first()) shared_.loops.front()->post([] {});  // it may be waiting for us
}

void loop::accept_here() {
  if (draining_) return;
  epoll_event accepting{};
  accepting.events = EPOLLIN | EPOLLEXCLUSIVE;
  accepting.data.ptr = nullptr;
  checked(::epoll_ctl(sockets_.native_handle(), EPOLL_CTL_ADD, shared_.listening_socket, &accepting), "epoll_ctl");
}

void loop::spread_if_many() {
  if (!is_first() || sessions_ < limits().beside_reader || shared_.spread.exchange(true)) return;
  for (auto& each : shared_.loops)
    if (each.get() != this) each->post([&other = *each] { other.accept_here(); });
}

void loop::wait_for_sockets() {
  // The sockets are polled from within the handler: what they start on this executor then runs at once, without a turn of its own.
  sockets_.async_wait(asio::posix::stream_descriptor::wait_read, [this](boost::system::error_code failed) {
    if (!failed) poll_sockets();
  });
}

void loop::wait_for_bell() {
  bell_.async_wait(asio::posix::stream_descriptor::wait_read, [this](boost::system::error_code failed) {
    if (failed) return;
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(bell_.native_handle(), &count, sizeof count);
    rung_.store(false);
    wait_for_bell();  // the turn's end delivers
  });
}

void loop::wait_for_tick() {
  tick_.expires_at(next_tick_);
  tick_.async_wait([this](boost::system::error_code failed) {
    if (failed) return;
    for (const auto now = steady::now(); next_tick_ <= now; next_tick_ += timing_wheel::tick)
      wheel_.advance([this](timing_wheel::timer& due) {
        if (&due == &drain_end_) {
          for (auto* s = first_; s != nullptr; s = s->next_) s->close();
          return;
        }
        auto& owner = static_cast<session::session_timer&>(due).owner;
        if (!owner.closed_) owner.on_timer();
      });
    if (const auto now = steady::now(); this == shared_.loops.front().get() && shared_.flowing.due(now))
      shared_.flowing.sample(now, counted_flow());
    wait_for_tick();
  });
}

void loop::poll_sockets() {
  std::array<epoll_event, sockets_a_poll> ready;  // NOLINT: filled by the kernel
  const int count = ::epoll_wait(sockets_.native_handle(), ready.data(), sockets_a_poll, 0);
  bool accepting = false;
  for (int i = 0; i < count; ++i) {
    const auto& event = ready[static_cast<std::size_t>(i)];
    if (event.data.ptr == nullptr)
      accepting = true;
    else
      static_cast<session*>(event.data.ptr)->socket_ready(event.events);
  }
  if (accepting) {
    accept_some();
    spread_if_many();
  }
  if (count < sockets_a_poll)
    wait_for_sockets();
  else
    post([this] { poll_sockets(); });  // there is more, after this turn's writing
}

void loop::accept_some() {
  for (int i = 0; i < accepts_a_turn; ++i) {
    int fd = ::accept4(shared_.listening_socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EMFILE || errno == ENFILE) {
        // Out of descriptors: the spare one lets the client be turned away, instead of leaving it (and our epoll) waiting.
        ::close(spare_descriptor_);
        fd = ::accept4(shared_.listening_socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) ::close(fd);
        spare_descriptor_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
        metrics::add(metrics::counter::connections_refused);
        if (metrics::value(metrics::counter::connections_refused) % 1000 == 1)
          log::warning("gateway", "out of file descriptors: connections are refused; raise `ulimit -n`");
        continue;
      }
      if (errno == ECONNABORTED || errno == EINTR) continue;
      return;
    }
    const int on = 1, unsent_ms = 30'000;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unsent_ms, sizeof unsent_ms);
    metrics::add(metrics::counter::connections_accepted);
    auto tls = shared_.tls.load();
    auto made = std::make_unique<http_session>(*this, socket{fd, std::move(tls)});
    auto& s = *made;
    adopt(std::move(made));
    watch(fd, s, true);
  }
}

void loop::watch(int fd, session& now, bool is_new) {
  epoll_event wanted{};
  wanted.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  wanted.data.ptr = &now;
  checked(::epoll_ctl(sockets_.native_handle(), is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &wanted), "epoll_ctl");
}

void loop::adopt(std::unique_ptr<session> s) {
  auto* const taken = s.release();
  taken->next_ = first_;
  taken->previous_ = &first_;
  if (first_ != nullptr) first_->previous_ = &taken->next_;
  first_ = taken;
  ++sessions_;
  metrics::adjust(metrics::gauge::sockets, 1);
  taken->begin();
}

void loop::flush_later(session& s) {
  if (s.dirty_ || s.closed_) return;
  s.dirty_ = true;
  dirty_.push_back(&s);
}

void loop::call_after_flush(session& s) {
  if (s.after_) return;
  s.after_ = true;
  after_flush_.push_back(&s);
}

void loop::destroy_later(session& s) { graveyard_.push_back(&s); }

void loop::finish_turn() {
  // Delivering and writing can make more of both (a subscription that ends, a reply): until nothing is left.
  do {
    shard_.deliver();
    listening_.turn();
    shard_.flush();
    for (std::size_t i = 0; i < dirty_.size(); ++i) {
      dirty_[i]->dirty_ = false;
      if (!dirty_[i]->closed_) dirty_[i]->flush();
    }
    dirty_.clear();
    for (std::size_t i = 0; i < after_flush_.size(); ++i) {
      after_flush_[i]->after_ = false;
      if (!after_flush_[i]->closed_) after_flush_[i]->after_flush();
    }
    after_flush_.clear();
  } while (!dirty_.empty());
  encoded_.clear();
  for (std::size_t i = 0; i < graveyard_.size(); ++i) {
    auto* const gone = graveyard_[i];
    *gone->previous_ = gone->next_;
    if (gone->next_ != nullptr) gone->next_->previous_ = gone->previous_;
    --sessions_;
    metrics::adjust(metrics::gauge::sockets, -1);
    delete gone;
  }
  graveyard_.clear();
  if (draining_) stop_if_drained();
}

void loop::begin_drain() {
  draining_ = true;
  ::epoll_ctl(sockets_.native_handle(), EPOLL_CTL_DEL, shared_.listening_socket, nullptr);
  wheel_.arm(drain_end_, limits().drain_deadline);
  for (auto* s = first_; s != nullptr; s = s->next_)
    if (!s->closed_) s->drain();
}

void loop::stop_if_drained() {
  if (sessions_ != 0 || coroutines_ != 0) return;
  // Loop 0 carries the database side: it waits for the others, which may still have a post under way.
  if (is_first() && shared_.running.load() > 1) return;
  context_.stop();
}

void loop::for_each(const std::function<void(session&)>& visit) {
  for (auto* s = first_; s != nullptr; s = s->next_)
    if (!s->closed_) visit(*s);
}

}  // namespace postbus::gateway
