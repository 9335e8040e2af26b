#include "base/resources.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "check.h"
#include "temp_dir.h"

namespace {

using weightlift::ControlGroupTexts;
using weightlift::ParseCpuMax;
using weightlift::ParseMemoryMax;

TEST(ThisMachine) {
  CHECK(weightlift::UsableCpus() >= 1);
  CHECK(weightlift::UsableMemory() >= std::uint64_t{1} << 26);
}

TEST(ParsesCpuMax) {
  CHECK(ParseCpuMax("max 100000") == std::nullopt);
  CHECK(ParseCpuMax("200000 100000") == 2);
  CHECK(ParseCpuMax("150000 100000") == 2);
  CHECK(ParseCpuMax("10000 100000") == 1);
  CHECK(ParseCpuMax("1600000 100000\n") == 16);
  CHECK(ParseCpuMax("9223372036854775807 1") == 1 << 20);
  for (const char* bad : {"", "1", "1 ", "0 100000", "-5 100000", "100000 0", "x y", "1000"}) {
    CHECK(ParseCpuMax(bad) == std::nullopt);
  }
}

TEST(ParsesMemoryMax) {
  CHECK(ParseMemoryMax("max") == std::nullopt);
  CHECK(ParseMemoryMax("") == std::nullopt);
  CHECK(ParseMemoryMax("-1") == std::nullopt);
  CHECK(ParseMemoryMax("1073741824\n") == std::uint64_t{1} << 30);
  CHECK(ParseMemoryMax("99999999999999999999999") == std::nullopt);
}

TEST(ReadsTheGroupAndAllAbove) {
  const TempDir dir;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(dir / name).parent_path());
    std::ofstream(dir / name) << text;
  };
  const auto texts = [&] { return ControlGroupTexts("cpu.max", dir / "fs", dir / "self"); };
  write("fs/cpu.max", "4 1\n");
  write("fs/a/cpu.max", "max 1\n");
  write("fs/a/b/c/cpu.max", "2 1\n");
  write("fs/other/cpu.max", "1 1\n");
  using Texts = std::vector<std::string>;
  CHECK(texts() == Texts());  // no membership known
  write("self", "3:cpu:/old\n0::/a/b/c\n");
  CHECK(texts() == Texts({"2 1", "max 1", "4 1"}));
  write("self", "0::/\n");
  CHECK(texts() == Texts({"4 1"}));
  write("self", "3:cpu:/old\n");
  CHECK(texts() == Texts());
  write("self", "0::/gone/x\n");
  CHECK(texts() == Texts({"4 1"}));
}

}  // namespace
