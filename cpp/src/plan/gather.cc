#include "plan/gather.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

namespace weightlift {
namespace {

// Columns that are copied together, row by row: their cache lines stay in L1 until used up.
constexpr std::size_t kTile = 64;

// Calls body with the item size as a compile-time constant where it is a usual one (0: it is not).
template <typename Body>
void ForItemSize(std::uint64_t item, const Body& body) {
  switch (item) {
    case 1:
      return body(std::integral_constant<std::size_t, 1>());
    case 2:
      return body(std::integral_constant<std::size_t, 2>());
    case 4:
      return body(std::integral_constant<std::size_t, 4>());
    case 8:
      return body(std::integral_constant<std::size_t, 8>());
    case 16:
      return body(std::integral_constant<std::size_t, 16>());
    default:
      return body(std::integral_constant<std::size_t, 0>());
  }
}

template <std::size_t kItem>
void CopyItem(std::byte* out, const std::byte* in, std::uint64_t item) {
  std::memcpy(out, in, kItem != 0 ? kItem : item);
}

}  // namespace

// Walks over the items of axes [first, last) in C order, as byte offsets.
class Gather::Cursor {
 public:
  Cursor(std::span<const Axis> axes, std::uint64_t index) : axes_(axes) {
    for (std::size_t i = axes.size(); i-- > 0;) {
      index_[i] = index % axes[i].length;
      index /= axes[i].length;
      offset_ += static_cast<std::int64_t>(index_[i]) * axes[i].stride;
    }
  }
  std::int64_t offset() const { return offset_; }
  void Next() {
    for (std::size_t i = axes_.size(); i-- > 0;) {
      offset_ += axes_[i].stride;
      if (++index_[i] < axes_[i].length) return;
      offset_ -= static_cast<std::int64_t>(axes_[i].length) * axes_[i].stride;
      index_[i] = 0;
    }
  }

 private:
  std::span<const Axis> axes_;
  // Not on the heap: small slabs make one for each. Only the first axes_.size() are used.
  std::array<std::uint64_t, kMaxAxes> index_;
  std::int64_t offset_ = 0;
};

Gather::Gather(const MemorySource& source) : data_(source.data), item_(source.item) {
  if (source.strides.empty() || source.nbytes == 0) {
    item_ = source.nbytes;
    return;
  }
  for (std::size_t i = 0; i < source.shape.size(); ++i) {
    const Axis axis{source.shape[i], source.strides[i]};
    if (axis.length == 1) continue;
    const bool merges = !axes_.empty() &&
                        axes_.back().stride == axis.stride * static_cast<std::int64_t>(axis.length);
    if (merges) {
      axes_.back() = {axes_.back().length * axis.length, axis.stride};
    } else {
      axes_.push_back(axis);
    }
  }
  if (!axes_.empty() && axes_.back().stride == static_cast<std::int64_t>(item_)) {
    item_ *= axes_.back().length;
    axes_.pop_back();
  }
  const auto shorter = [](const Axis& a, const Axis& b) {
    return std::llabs(a.stride) < std::llabs(b.stride);
  };
  if (axes_.empty()) return;
  // The last of the shortest, so that what is not transposed has rows of one item.
  rows_ = static_cast<std::size_t>(std::min_element(axes_.rbegin(), axes_.rend(), shorter).base() -
                                   axes_.begin() - 1);
  for (std::size_t i = rows_ + 1; i < axes_.size(); ++i) columns_ *= axes_[i].length;
}

const std::byte* Gather::ItemAddress(std::uint64_t index) const {
  return data_ + Cursor(axes_, index).offset();
}

void Gather::Copy(std::uint64_t begin, std::span<std::byte> out) const {
  if (out.empty()) return;
  if (axes_.empty()) {
    std::memcpy(out.data(), data_ + begin, out.size());
    return;
  }
  // The rest of an item, whole items, the start of one.
  std::uint64_t item = begin / item_;
  if (const std::uint64_t skip = begin % item_; skip != 0) {
    const std::size_t n = std::min<std::size_t>(item_ - skip, out.size());
    std::memcpy(out.data(), ItemAddress(item) + skip, n);
    out = out.subspan(n);
    ++item;
  }
  const std::uint64_t whole = out.size() / item_;
  CopyItems(item, whole, out.data());
  out = out.subspan(whole * item_);
  if (!out.empty()) std::memcpy(out.data(), ItemAddress(item + whole), out.size());
}

void Gather::CopyItems(std::uint64_t first, std::uint64_t count, std::byte* out) const {
  if (count == 0) return;
  const std::uint64_t rows = axes_[rows_].length;
  std::uint64_t row = first / columns_ % rows;
  std::uint64_t column = first % columns_;
  Cursor slab(std::span<const Axis>(axes_).first(rows_), first / columns_ / rows);
  while (count > 0) {
    const std::byte* const base = data_ + slab.offset();
    const std::byte* const at = base + static_cast<std::int64_t>(row) * axes_[rows_].stride;
    std::uint64_t done = 0;
    if (column == 0 && count >= columns_) {
      const std::uint64_t n = std::min(rows - row, count / columns_);
      CopyRows(at, n, out);
      done = n * columns_;
      row += n;
    } else {
      done = std::min(columns_ - column, count);
      CopyRow(at, column, done, out);
      column += done;
      if (column == columns_) {
        column = 0;
        ++row;
      }
    }
    if (row == rows) {
      row = 0;
      slab.Next();
    }
    out += done * item_;
    count -= done;
  }
}

void Gather::CopyRow(const std::byte* row, std::uint64_t column, std::uint64_t count,
                     std::byte* out) const {
  ForItemSize(item_, [&](auto item) {
    Cursor cursor(std::span<const Axis>(axes_).subspan(rows_ + 1), column);
    for (std::uint64_t i = 0; i < count; ++i, cursor.Next()) {
      CopyItem<item()>(out + i * item_, row + cursor.offset(), item_);
    }
  });
}

void Gather::CopyRows(const std::byte* slab, std::uint64_t count, std::byte* out) const {
  const std::int64_t stride = axes_[rows_].stride;
  ForItemSize(item_, [&](auto item) {
    if (columns_ == 1) {
      for (std::uint64_t i = 0; i < count; ++i) {
        CopyItem<item()>(out + i * item_, slab + static_cast<std::int64_t>(i) * stride, item_);
      }
      return;
    }
    std::array<std::int64_t, kTile> offsets;
    Cursor cursor(std::span<const Axis>(axes_).subspan(rows_ + 1), 0);
    for (std::uint64_t column = 0; column < columns_; column += kTile) {
      const std::size_t width = std::min<std::size_t>(kTile, columns_ - column);
      for (std::size_t j = 0; j < width; ++j, cursor.Next()) offsets[j] = cursor.offset();
      for (std::uint64_t i = 0; i < count; ++i) {
        const std::byte* const from = slab + static_cast<std::int64_t>(i) * stride;
        std::byte* const to = out + (i * columns_ + column) * item_;
        for (std::size_t j = 0; j < width; ++j) {
          CopyItem<item()>(to + j * item_, from + offsets[j], item_);
        }
      }
    }
  });
}

}  // namespace weightlift
