#include <utility>

#include "weightlift/writer.h"

namespace weightlift {
namespace {

class NullWriter final : public Writer {
 public:
  explicit NullWriter(std::string name) : name_(std::move(name)) {}

  const std::string& name() const noexcept override { return name_; }
  void WriteAt(std::uint64_t /*offset*/, std::span<const std::byte> /*data*/) override {}
  std::size_t direct_alignment() const noexcept override { return 0; }
  void Sync() override {}
  void Commit() override {}
  void Abort() noexcept override {}

 private:
  std::string name_;
};

}  // namespace

std::shared_ptr<Writer> MakeNullWriter(std::string name) {
  return std::make_shared<NullWriter>(std::move(name));
}

}  // namespace weightlift
