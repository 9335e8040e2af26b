#include <cstring>
#include <utility>

#include "weightlift/reader.h"

namespace weightlift {
namespace {

class MemoryReader final : public Reader {
 public:
  MemoryReader(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {}

  std::uint64_t size() const noexcept override { return bytes_.size(); }
  const std::string& name() const noexcept override { return name_; }

  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    CheckRange(*this, offset, out.size());
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
  }

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
};

}  // namespace

std::shared_ptr<Reader> MakeMemoryReader(std::span<const std::byte> bytes, std::string name) {
  return std::make_shared<MemoryReader>(bytes, std::move(name));
}

}  // namespace weightlift
