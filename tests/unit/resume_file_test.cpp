#include "client/resume_file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace postbus::remote {
namespace {

class resume_file_test : public testing::Test {
protected:
  resume_file_test() {
    std::string name = (std::filesystem::temp_directory_path() / "postbus-resume-XXXXXX").string();
    folder = ::mkdtemp(name.data());
  }
  ~resume_file_test() override { std::filesystem::remove_all(folder); }
  std::string path() const { return (folder / "position").string(); }
  void put(std::string_view text) const { std::ofstream{path(), std::ios::binary} << text; }

  std::filesystem::path folder;
};

const channel_positions some{{"orders", "5f3a9c01-0000000a1b2c3d40-00000003"}, {"with space \"ü\"", "5f3a9c01-0000000a1b2c3d40-80000001"}};

TEST_F(resume_file_test, a_file_that_does_not_exist_holds_nothing) { EXPECT_TRUE(resume_file{path()}.load().value().empty()); }

TEST_F(resume_file_test, saves_and_loads_each_channel_and_leaves_nothing_beside_it) {
  const resume_file file{path()};
  ASSERT_TRUE(file.save(some));
  ASSERT_TRUE(file.save(some));
  EXPECT_EQ(file.load().value(), some);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator{folder}, {}), 1);
}

TEST_F(resume_file_test, the_half_written_new_file_of_a_crash_is_not_read) {
  const resume_file file{path()};
  ASSERT_TRUE(file.save(some));
  std::ofstream{path() + ".new"} << "postbus-resume 1\n5f3a";
  EXPECT_EQ(file.load().value(), some);
  ASSERT_TRUE(file.save({}));
  EXPECT_TRUE(file.load().value().empty());
}

TEST_F(resume_file_test, every_cut_of_the_text_is_refused_or_holds_whole_lines) {
  const auto text = format_resume(some);
  for (std::size_t size = 0; size < text.size(); ++size) {
    const auto parsed = parse_resume(text.substr(0, size));
    if (parsed) {
      EXPECT_EQ(text[size - 1], '\n') << size;
    }
  }
}

TEST_F(resume_file_test, another_programs_file_is_refused_and_stays_as_it_is) {
  for (const auto* bad :
       {"", "hello\n", "postbus-resume 2\n", "postbus-resume 1\nnow orders\n", "postbus-resume 1\n5f3a9c01-0000000a1b2c3d40-00000003\n",
        "postbus-resume 1\n5f3a9c01-0000000a1b2c3d40-00000003 \n"}) {
    put(bad);
    const auto loaded = resume_file{path()}.load();
    ASSERT_FALSE(loaded) << bad;
    EXPECT_EQ(loaded.error().code, errc::invalid_argument) << bad;
    EXPECT_NE(loaded.error().text.find(path()), std::string::npos);
  }
}

TEST_F(resume_file_test, a_folder_that_cannot_be_written_is_an_error_that_names_the_path) {
  const auto saved = resume_file{(folder / "missing" / "position").string()}.save(some);
  ASSERT_FALSE(saved);
  EXPECT_EQ(saved.error().code, errc::io);
  EXPECT_NE(saved.error().text.find("missing/position"), std::string::npos);
}

}  // namespace
}  // namespace postbus::remote
