#include "base/clock.hpp"

#include <fmt/format.h>

#include <iterator>

namespace postbus {

unix_micros now_micros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void append_rfc3339(std::string& out, unix_micros time) {
  // A transaction's events, and all rows of a snapshot, share their time: its text is made once.
  thread_local unix_micros last_time = 0;
  thread_local std::string last_text;
  if (time == last_time && !last_text.empty()) {
    out += last_text;
    return;
  }
  using namespace std::chrono;
  const sys_time<microseconds> moment{microseconds{time}};
  const auto day = floor<days>(moment);
  const year_month_day date{day};
  const hh_mm_ss clock{moment - day};
  last_text.clear();
  last_time = time;
  fmt::format_to(std::back_inserter(last_text), "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", static_cast<int>(date.year()),
                 static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), clock.hours().count(), clock.minutes().count(),
                 clock.seconds().count(), clock.subseconds().count());
  out += last_text;
}

}  // namespace postbus
