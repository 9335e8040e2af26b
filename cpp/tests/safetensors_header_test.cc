#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "layout/duplicates.h"
#include "weightlift/checksum.h"
#include "weightlift/layout.h"

namespace {

using weightlift::ErrorCode;
using weightlift::ParseSafetensorsHeader;
using weightlift::SafetensorsHeader;
using weightlift::SafetensorsTypes;

// Parses a header of one tensor "a" with the given fields.
void ParseFields(const std::string& fields, std::uint64_t data_size = 8) {
  ParseSafetensorsHeader("{\"a\":{" + fields + "}}", data_size);
}

std::string Tensor(std::string_view name, std::string_view type, std::string_view shape,
                   std::uint64_t begin, std::uint64_t end) {
  std::string text = "\"";
  text += name;
  text += "\":{\"dtype\":\"";
  text += type;
  text += "\",\"shape\":";
  text += shape;
  return text + ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

std::string Header(const std::vector<std::string>& members) {
  std::string text = "{";
  for (const std::string& member : members) text += (text.size() > 1 ? "," : "") + member;
  return text + "}";
}

std::uint32_t Digest(const std::string& json, std::uint64_t data_size) {
  return ParseSafetensorsHeader(json, data_size).table_digest;
}

}  // namespace

TEST(ReadsEveryField) {
  const std::string json =
      R"( {"__metadata__":{"b":"2","a":"1\n"},)"
      R"("w":{"shape":[2,3],"data_offsets":[4,28],"dtype":"F32"},)"
      R"( "s\u00e9" : { "dtype" : "I32" , "shape" : [ ] , "data_offsets" : [ 0 , 4 ] } }   )";
  const SafetensorsHeader header = ParseSafetensorsHeader(json, 28);
  CHECK_EQ(header.tensors.size(), 2);
  CHECK_EQ(std::string(header.tensors[0].name), std::string("s\u00e9"));
  CHECK_EQ(std::string(SafetensorsTypes()[header.tensors[0].type].name), std::string("I32"));
  CHECK(header.shape(header.tensors[0]).empty());
  CHECK_EQ(std::string(header.tensors[1].name), std::string("w"));
  CHECK_EQ(header.shape(header.tensors[1]).size(), 2);
  CHECK_EQ(header.shape(header.tensors[1])[1], 3);
  CHECK_EQ(header.tensors[1].begin, 4);
  CHECK_EQ(header.tensors[1].end, 28);
  CHECK_EQ(header.metadata.size(), 2);
  CHECK_EQ(std::string(header.metadata[0].first), std::string("a"));
  CHECK_EQ(std::string(header.metadata[0].second), std::string("1\n"));
}

TEST(EmptyHeaders) {
  CHECK(ParseSafetensorsHeader("{}", 0).tensors.empty());
  CHECK(ParseSafetensorsHeader("{\"__metadata__\":{}}  ", 0).tensors.empty());
  CHECK_THROWS(kFormat, ParseSafetensorsHeader("", 0));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader("   ", 0));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader("{}", 1));
}

TEST(KnowsEveryType) {
  for (const weightlift::SafetensorsType& type : SafetensorsTypes()) {
    const std::uint64_t bytes = *weightlift::ByteSize(type.dtype, 8);
    const std::string json = Header({Tensor("a", type.name, "[4,2]", 0, bytes)});
    CHECK_EQ(
        std::string(SafetensorsTypes()[ParseSafetensorsHeader(json, bytes).tensors[0].type].name),
        std::string(type.name));
  }
  CHECK_EQ(SafetensorsTypes().size(), 20);
  CHECK_THROWS(kUnsupported, ParseFields(R"("dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3])"));
  CHECK_THROWS(kUnsupported, ParseFields(R"("dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3])"));
  for (const std::string_view unknown : {"F33", "f32", "F3", "", "F32 ", "C128", "float32"}) {
    CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({Tensor("a", unknown, "[2]", 0, 8)}), 8));
  }
}

TEST(FieldsAreStrict) {
  ParseFields(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])");
  for (const std::string_view fields : {
           R"("shape":[2],"data_offsets":[0,8])",
           R"("dtype":"F32","data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2])",
           R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"data_offsets":[0,8])",
           R"("dtype":7,"shape":[2],"data_offsets":[0,8])",
           R"("dtype":null,"shape":[2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":2,"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[NaN],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2,],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":null,"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2],"data_offsets":[0])",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])",
           R"("dtype":"F32","shape":[2],"data_offsets":[8,0])",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,1e1])",
           R"("dtype":"F32","shape":[2],"data_offsets":{"0":0,"1":8})",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8],)",
           R"("dtype":"F32" "shape":[2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[3],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1,"x":2)",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":tru)",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"\u0064type":"F32")",
       }) {
    CHECK_THROWS(kFormat, ParseFields(std::string(fields)));
  }
  ParseFields(R"("x":[{"y":null}],"dtype":"F32","shape":[2],"z":-1.5,"data_offsets":[0,8])");
}

TEST(ObjectsAreStrict) {
  const std::string a = Tensor("a", "F32", "[2]", 0, 8);
  ParseSafetensorsHeader(Header({a}), 8);
  for (const std::string& json :
       {"[" + a + "]", "{" + a, "{" + a + ",}", "{" + a + "}}", "{" + a + "}x", "{" + a + "} {}",
        "{" + a + "}" + std::string(1, '\0'), "\xEF\xBB\xBF{" + a + "}", "{" + a + " " + a + "}",
        std::string("{\"a\":1}"), std::string("{\"a\":[]}"), std::string("{a:{}}"),
        std::string("\"a\""), std::string("null"), std::string("NaN")}) {
    CHECK_THROWS(kFormat, ParseSafetensorsHeader(json, 8));
  }
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({a, a}), 8));
  CHECK_THROWS(kFormat,
               ParseSafetensorsHeader(Header({a, Tensor("\\u0061", "F32", "[2]", 8, 16)}), 16));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({Tensor("", "F32", "[2]", 0, 8)}), 8));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({Tensor("\xC3", "F32", "[2]", 0, 8)}), 8));
}

TEST(MetadataIsStrict) {
  for (const std::string_view metadata :
       {R"("__metadata__":[])", R"("__metadata__":"x")", R"("__metadata__":{"a":1})",
        R"("__metadata__":{"a":null})", R"("__metadata__":{"a":{}})",
        R"("__metadata__":{"a":"1",})", R"("__metadata__":{"a":"1","a":"2"})",
        R"("__metadata__":{"a":"1","\u0061":"1"})", R"("__metadata__":{},"__metadata__":{})",
        R"("__metadata__":null)"}) {
    CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({std::string(metadata)}), 0));
  }
  CHECK_EQ(ParseSafetensorsHeader(R"({"__metadata__":{"":""}})", 0).metadata.size(), 1);
}

TEST(TensorsTileTheData) {
  const std::string a = Tensor("a", "U8", "[4]", 0, 4);
  ParseSafetensorsHeader(Header({a, Tensor("b", "U8", "[4]", 4, 8)}), 8);
  ParseSafetensorsHeader(Header({Tensor("b", "U8", "[4]", 4, 8), a}), 8);
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({a, Tensor("b", "U8", "[4]", 5, 9)}), 9));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({a, Tensor("b", "U8", "[4]", 3, 7)}), 7));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({a, Tensor("b", "U8", "[4]", 0, 4)}), 4));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({Tensor("a", "U8", "[4]", 1, 5)}), 5));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({a}), 5));
  CHECK_THROWS(kTruncated, ParseSafetensorsHeader(Header({a}), 3));
  // Empty tensors lie anywhere between two others, but not inside one.
  ParseSafetensorsHeader(
      Header({Tensor("z", "U8", "[0]", 4, 4), a, Tensor("y", "F64", "[9,0]", 0, 0)}), 4);
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({a, Tensor("z", "U8", "[0]", 2, 2)}), 4));
}

TEST(ErrorsSayWhere) {
  const std::string json =
      Header({Tensor("a", "U8", "[4]", 0, 4), Tensor("b", "U8", "[6]", 4, 10)});
  try {
    ParseSafetensorsHeader(json, 7);
    CHECK(false);
  } catch (const weightlift::Error& error) {
    CHECK(error.code() == ErrorCode::kTruncated);
    CHECK_EQ(error.place().tensor_name, std::string("b"));
    CHECK_EQ(error.place().begin.value_or(0), 8 + json.size() + 4);
    CHECK_EQ(error.place().end.value_or(0), 8 + json.size() + 10);
  }
  try {
    ParseSafetensorsHeader("{\"a\":{\"dtype\":\"F32\",\"shape\":[x", 0);
    CHECK(false);
  } catch (const weightlift::Error& error) {
    CHECK_EQ(error.place().tensor_name, std::string("a"));
    CHECK_EQ(error.place().begin.value_or(0), 8 + 29);
  }
}

TEST(SizesDoNotOverflow) {
  for (const std::string_view shape :
       {"[18446744073709551615]", "[9223372036854775807,2]", "[4294967296,4294967296]",
        "[4294967296,4294967296,0]", "[0,4294967296,4294967296]", "[2305843009213693952]",
        "[4611686018427387905]", "[18446744073709551616]"}) {
    CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({Tensor("a", "F32", shape, 0, 0)}), 0));
    CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({Tensor("a", "F32", shape, 0, 4)}), 4));
  }
  const std::string huge =
      Header({Tensor("a", "U8", "[9223372036854775807]", 0, 9223372036854775807u)});
  CHECK_THROWS(kTruncated, ParseSafetensorsHeader(huge, 100));
  // Sub-byte elements fill whole bytes.
  ParseSafetensorsHeader(Header({Tensor("a", "F4", "[3,2]", 0, 3)}), 3);
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({Tensor("a", "F4", "[3]", 0, 2)}), 2));
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(Header({Tensor("a", "F4", "[3]", 0, 1)}), 1));
  std::string shape = "[1";
  for (int i = 1; i < 64; ++i) shape += ",1";
  ParseSafetensorsHeader(Header({Tensor("a", "U8", shape + "]", 0, 1)}), 1);
  CHECK_THROWS(kFormat,
               ParseSafetensorsHeader(Header({Tensor("a", "U8", shape + ",1]", 0, 1)}), 1));
}

TEST(DataOrderIsByOffsetThenName) {
  const std::string json =
      Header({Tensor("d", "U8", "[1]", 0, 1), Tensor("c", "U8", "[0]", 0, 0),
              Tensor("b", "F32", "[0]", 1, 1), Tensor("a", "U8", "[0]", 0, 0)});
  const SafetensorsHeader header = ParseSafetensorsHeader(json, 1);
  std::string order;
  for (const auto& tensor : header.tensors) order += tensor.name;
  CHECK_EQ(order, std::string("acdb"));
}

TEST(DigestIsOfTheMeaning) {
  const std::string a = Tensor("a", "F32", "[1]", 0, 4);
  const std::string b = Tensor("b", "F32", "[1]", 4, 8);
  const std::string meta = R"("__metadata__":{"k":"v","l":"w"})";
  const std::uint32_t digest = Digest(Header({meta, a, b}), 8);
  CHECK_EQ(Digest(Header({b, a, meta}) + "   ", 8), digest);
  CHECK_EQ(Digest(Header({R"("__metadata__":{"l":"w","\u006b":"v"})", a, b}), 8), digest);
  CHECK_EQ(
      Digest(Header({R"("__metadata__":{"weightlift.crc32c":"00","k":"v","l":"w"})", a, b}), 8),
      digest);
  for (const std::string& other :
       {Header({a, b}), Header({R"("__metadata__":{"k":"v","l":"x"})", a, b}),
        Header({R"("__metadata__":{"k":"v","m":"w"})", a, b}),
        Header({R"("__metadata__":{"k":"vl","":"w"})", a, b}),
        Header({meta, Tensor("b", "F32", "[1]", 0, 4), Tensor("a", "F32", "[1]", 4, 8)}),
        Header({meta, Tensor("c", "F32", "[1]", 0, 4), b}),
        Header({meta, Tensor("a", "I32", "[1]", 0, 4), b}),
        Header({meta, Tensor("a", "F32", "[1,1]", 0, 4), b}),
        Header({meta, Tensor("a", "F32", "[]", 0, 4), b})}) {
    CHECK(Digest(other, 8) != digest);
  }
}

// docs/formats/safetensors.md, to the byte.
TEST(DigestIsAsDocumented) {
  std::string text;
  const auto number = [&text](std::uint64_t value) {
    for (int i = 0; i < 8; ++i) text.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  };
  const auto string = [&](std::string_view value) {
    number(value.size());
    text += value;
  };
  number(1);
  string("k");
  string("v");
  number(1);
  string("a");
  string("F32");
  number(2);
  number(1);
  number(3);
  number(0);
  number(12);
  const std::uint32_t expected = weightlift::Crc32c(std::as_bytes(std::span(text)));
  CHECK_EQ(Digest(Header({R"("__metadata__":{"k":"v"})", Tensor("a", "F32", "[1,3]", 0, 12)}), 12),
           expected);
  // Texts longer than the digest's buffer go another way to the same value.
  const std::string long_name(10'000, 'n');
  text.clear();
  number(0);
  number(1);
  string(long_name);
  string("U8");
  for (const unsigned value : {1u, 1u, 0u, 1u}) number(value);
  CHECK_EQ(Digest(Header({Tensor(long_name, "U8", "[1]", 0, 1)}), 1),
           weightlift::Crc32c(std::as_bytes(std::span(text))));
}

TEST(WritesWhatItReads) {
  const std::string odd("q\"b\\n\nr\rt\tb\bf\f\x01\x1f\0\x7f/\u00e9", 21);
  const std::vector<std::string_view> names{"w", odd};
  const std::vector<std::uint32_t> type{0, 5};
  const std::vector<std::int64_t> dimensions{2, 3};
  const std::vector<std::size_t> first{0, 2, 2};
  const std::vector<std::uint64_t> begin{1, 0};
  const std::vector<std::uint64_t> end{25, 1};
  const weightlift::SafetensorsRows rows{.names = names,
                                         .type = type,
                                         .dimensions = dimensions,
                                         .first_dimension = first,
                                         .begin = begin,
                                         .end = end};
  const std::string text = weightlift::WriteSafetensorsHeader(rows, R"({"k":"v"})", 64);
  CHECK_EQ(text.size() % 64, 0);
  std::string expected = Header({R"("__metadata__":{"k":"v"})", Tensor("w", "F32", "[2,3]", 1, 25),
                                 Tensor(R"(q\"b\\n\nr\rt\tb\bf\f\u0001\u001f\u0000)"
                                        "\x7f/\u00e9",
                                        "U8", "[]", 0, 1)});
  expected.resize(text.size() - 8, ' ');
  CHECK_EQ(text.substr(8), expected);
  CHECK_EQ(static_cast<unsigned char>(text[0]) + 256 * static_cast<unsigned char>(text[1]),
           text.size() - 8);
  CHECK_EQ(text.substr(2, 6), std::string(6, '\0'));
  const SafetensorsHeader header = ParseSafetensorsHeader(expected, 25);
  CHECK_EQ(std::string(header.tensors[0].name), odd);
  CHECK_EQ(header.tensors[1].begin, 1);
  CHECK_EQ(weightlift::WriteSafetensorsHeader({.names = {},
                                               .type = {},
                                               .dimensions = {},
                                               .first_dimension = {},
                                               .begin = {},
                                               .end = {}},
                                              "", 8)
               .substr(8),
           std::string("{}      "));
}

TEST(ManyTensors) {
  std::string json = "{";
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    if (i != 0) json += ',';
    json += Tensor("layer." + std::to_string(i), "F32", "[16,64]", i * 4096, (i + 1) * 4096);
  }
  const std::string whole = json + "}";
  const SafetensorsHeader header = ParseSafetensorsHeader(whole, 409'600'000);
  CHECK_EQ(header.tensors.size(), 100'000);
  CHECK_EQ(std::string(header.tensors.back().name), std::string("layer.99999"));
  json += ',' + Tensor("layer.5", "F32", "[0]", 0, 0) + "}";
  CHECK_THROWS(kFormat, ParseSafetensorsHeader(json, 409'600'000));
}

TEST(FindsTheDuplicate) {
  std::vector<std::string> names;
  for (int i = 0; i < 1000; ++i)
    names.push_back(std::string(static_cast<std::size_t>(i % 50), 'x') + std::to_string(i));
  const auto name = [&names](std::size_t i) { return std::string_view(names[i]); };
  CHECK(!weightlift::FindDuplicate(names.size(), name));
  names[700] = names[3];
  CHECK_EQ(weightlift::FindDuplicate(names.size(), name).value_or(0), 700);
  CHECK(!weightlift::FindDuplicate(0, name));
  CHECK(!weightlift::FindDuplicate(1, name));
  // Prefixes and zero bytes are told apart.
  names = {
      "",         std::string(1, '\0'),        std::string(2, '\0'), "a", std::string("a\0", 2),
      "aaaaaaaa", std::string("aaaaaaaa\0", 9)};
  CHECK(!weightlift::FindDuplicate(names.size(), name));
}

// Names of a few bytes spread over a table as others do, whatever the key: of 20,000 in 65,536
// slots 17,236 are expected to be used, with a deviation of 45.
TEST(ShortNamesAreMixed) {
  constexpr int kNames = 20'000, kKeys = 400;
  std::mt19937_64 random(1);
  for (const char* prefix : {"t", "layers.0.weight."}) {
    std::vector<std::string> names;
    for (int i = 0; i < kNames; ++i) names.push_back(prefix + std::to_string(i));
    for (int drawn = 0; drawn < kKeys; ++drawn) {
      const weightlift::HashKey key{random(), random()};
      std::vector<bool> used(1 << 16);
      std::size_t count = 0;
      for (const std::string& name : names) {
        const auto slot = weightlift::HashName(name, key) & (used.size() - 1);
        if (!used[slot]) ++count;
        used[slot] = true;
      }
      CHECK(count > 16'900);
    }
  }
}
