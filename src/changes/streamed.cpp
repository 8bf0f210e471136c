// A kept message is a head (length of what follows the head, xid, place in the WAL) and the message as protocol version 1 writes it: tag and
// body. Heads are in the machine's own byte order: nobody else reads them.
#include "changes/streamed.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/log.hpp"

namespace postbus::changes {
namespace {

namespace pgoutput = postgres::pgoutput;

struct head {
  std::uint32_t bytes;
  std::uint32_t xid;
  std::uint64_t at;
};

/** Bytes written, and read, at once. */
constexpr std::size_t piece = 1u << 20;

error broken(const char* what) { return {errc::protocol, "the replication stream is broken; the connection will be made anew", what}; }

int open_unnamed(const std::string& wanted) {
  const char* folder = wanted.c_str();
  if (wanted.empty()) folder = std::getenv("TMPDIR");
  if (folder == nullptr || *folder == '\0') folder = "/tmp";
  const int made = ::open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (made >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return made;
  auto name = std::string{folder} + "/postbus-XXXXXX";  // a file system that knows no files without a name
  const int named = ::mkostemp(name.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(name.c_str());
  return named;
}

}  // namespace

kept_transaction::~kept_transaction() {
  if (file_ >= 0) ::close(file_);
  *on_disk_ -= written_;
}

void kept_transaction::lose(std::string why) {
  lost_ = std::move(why);
  memory_ = {};
  if (file_ >= 0) ::close(std::exchange(file_, -1));
  *on_disk_ -= std::exchange(written_, 0);
}

void kept_transaction::add(const pgoutput::streamed_message& m, std::uint64_t at) {
  if (!lost_.empty()) return;
  const head h{static_cast<std::uint32_t>(m.body.size() + 1), m.xid, at};
  memory_.append(reinterpret_cast<const char*>(&h), sizeof h);
  memory_ += m.tag;
  memory_ += m.body;
  constexpr std::size_t flags_and_lsn = 9;
  posted_ |= m.tag == 'M' && m.body.size() > flags_and_lsn && m.body.substr(flags_and_lsn).starts_with("postbus:");
  // The first bytes stay in memory as long as they are all there is; then pieces go out as they fill.
  if (memory_.size() >= (file_ < 0 ? limits_.memory : piece)) write_out();
}

void kept_transaction::write_out() {
  if (*on_disk_ + memory_.size() > limits_.disk)
    return lose("the transactions under way are larger than " + std::to_string(limits_.disk) + " bytes (--spill-bytes)");
  if (file_ < 0) file_ = open_unnamed(limits_.folder);
  if (file_ < 0) return lose(std::string{"no temporary file can be made: "} + std::strerror(errno));
  for (std::size_t done = 0; done < memory_.size();) {
    const auto wrote = ::write(file_, memory_.data() + done, memory_.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return lose(std::string{"the temporary file cannot be written: "} + std::strerror(errno));
    done += static_cast<std::size_t>(wrote);
    written_ += static_cast<std::uint64_t>(wrote);
    *on_disk_ += static_cast<std::uint64_t>(wrote);
  }
  memory_.clear();
}

/** The next `count` bytes in one piece; fewer only at the very end. */
result<std::string_view> kept_transaction::bytes(std::size_t count) {
  while (window_.size() - at_ < count) {
    window_.erase(0, std::exchange(at_, 0));
    if (read_ < written_) {
      const auto before = window_.size();
      window_.resize(before + std::min<std::uint64_t>(std::max(piece, count), written_ - read_));
      const auto got = ::pread(file_, window_.data() + before, window_.size() - before, static_cast<off_t>(read_));
      if (got < 0 && errno == EINTR) {
        window_.resize(before);
        continue;
      }
      if (got <= 0)
        return error{errc::io, "a large transaction's temporary file cannot be read", got < 0 ? std::strerror(errno) : "it is short"};
      window_.resize(before + static_cast<std::size_t>(got));
      read_ += static_cast<std::uint64_t>(got);
    } else if (!std::exchange(from_memory_, true)) {
      window_ += memory_;
      memory_ = {};
    } else {
      break;
    }
  }
  const auto given = std::string_view{window_}.substr(at_, count);
  at_ += given.size();
  return given;
}

result<std::optional<kept_transaction::message>> kept_transaction::next() {
  for (;;) {
    auto first = bytes(sizeof(head));
    if (!first) return first.error();
    if (first->empty()) return std::optional<message>{};
    head h;
    if (first->size() != sizeof h) return error{errc::io, "a large transaction's temporary file is damaged"};
    std::memcpy(&h, first->data(), sizeof h);
    auto body = bytes(h.bytes);
    if (!body) return body.error();
    if (body->size() != h.bytes) return error{errc::io, "a large transaction's temporary file is damaged"};
    if (!undone_.contains(h.xid)) return std::optional{message{h.at, *body}};
  }
}

result<> streamed_transactions::start(const pgoutput::stream_start& block) {
  if (open_ != nullptr) return broken("a streamed block within another");
  auto& kept = kept_[block.xid];
  if (!kept || block.first) kept = std::make_unique<kept_transaction>(limits_, on_disk_);
  open_ = kept.get();
  return {};
}

result<> streamed_transactions::take(std::string_view payload, std::uint64_t at) {
  if (payload.starts_with('O')) return {};  // where it was replicated from: it stands at a block's begin, without an xid
  auto message = pgoutput::decode_streamed(payload);
  if (!message) return message.error();
  if (!*message) {
    open_ = nullptr;
    return {};
  }
  const bool had = open_->lost().empty();
  open_->add(**message, at);
  if (had && !open_->lost().empty())
    log::error("changes", "a large transaction cannot be kept and will be told as a gap when it commits: {}", open_->lost());
  return {};
}

bool streamed_transactions::abort(const pgoutput::stream_abort& which) {
  const auto found = kept_.find(which.xid);
  if (found == kept_.end()) return true;
  if (which.xid == which.subxid) {
    kept_.erase(found);
    return true;
  }
  found->second->undo(which.subxid);
  return !found->second->posted();
}

result<std::unique_ptr<kept_transaction>> streamed_transactions::take_out(std::uint32_t xid) {
  const auto found = kept_.find(xid);
  if (found == kept_.end() || open_ != nullptr) return broken("the commit of a streamed transaction that was not streamed");
  auto taken = std::move(found->second);
  kept_.erase(found);
  return taken;
}

void streamed_transactions::clear() {
  open_ = nullptr;
  kept_.clear();
}

}  // namespace postbus::changes
