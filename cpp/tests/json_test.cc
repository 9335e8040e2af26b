#include <forward_list>
#include <string>
#include <string_view>

#include "check.h"
#include "layout/json_scanner.h"
#include "layout/utf8.h"

namespace {

using weightlift::ErrorCode;
using weightlift::JsonScanner;

std::string ScanString(std::string_view text) {
  std::forward_list<std::string> unescaped;
  JsonScanner scan(text, 0);
  std::string value(scan.String(unescaped));
  scan.ExpectEnd();
  return value;
}

std::uint64_t ScanInteger(std::string_view text) {
  JsonScanner scan(text, 0);
  const std::uint64_t value = scan.UnsignedInteger();
  scan.ExpectEnd();
  return value;
}

void Skip(std::string_view text) {
  JsonScanner scan(text, 0);
  scan.SkipValue();
  scan.ExpectEnd();
}

bool Skips(std::string_view text) {
  try {
    Skip(text);
    return true;
  } catch (const weightlift::Error& error) {
    CHECK(error.code() == ErrorCode::kFormat);
    return false;
  }
}

std::string Repeat(std::string_view unit, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += unit;
  return text;
}

}  // namespace

TEST(StringsOfEveryLengthAreFoundWhole) {
  // Every position of the closing quote, and of a special byte, against the eight-byte steps.
  for (std::size_t length = 0; length < 40; ++length) {
    const std::string plain(length, 'x');
    CHECK_EQ(ScanString('"' + plain + '"'), plain);
    for (std::size_t at = 0; at < length; ++at) {
      std::string accented = plain;
      accented.replace(at, 1, "\xC3\xA9");
      CHECK_EQ(ScanString('"' + accented + '"'), accented);
      std::string escaped = plain;
      escaped.replace(at, 1, "\\u00e9");
      CHECK_EQ(ScanString('"' + escaped + '"'), accented);
      std::string control = plain;
      control[at] = '\x1F';
      CHECK_THROWS(kFormat, ScanString('"' + control + '"'));
      std::string broken = plain;
      broken[at] = '\xFF';
      CHECK_THROWS(kFormat, ScanString('"' + broken + '"'));
    }
    CHECK_THROWS(kFormat, ScanString('"' + plain));
  }
}

TEST(StringsAreViewsUnlessTheyHaveEscapes) {
  const std::string text = R"("plain""esc\taped")";
  std::forward_list<std::string> unescaped;
  JsonScanner scan(text, 0);
  CHECK(scan.String(unescaped).data() == text.data() + 1);
  CHECK(unescaped.empty());
  CHECK_EQ(std::string(scan.String(unescaped)), std::string("esc\taped"));
  CHECK(!unescaped.empty());
}

TEST(EscapesMeanWhatTheStandardSays) {
  CHECK_EQ(ScanString(R"("\"\\\/\b\f\n\r\t")"), std::string("\"\\/\b\f\n\r\t"));
  CHECK_EQ(ScanString(R"("\u0041\u00E9\u20aC\uFFFD")"), std::string("A\u00e9\u20ac\ufffd"));
  CHECK_EQ(ScanString(R"("\u0000")"), std::string(1, '\0'));
  CHECK_EQ(ScanString(R"("\ud83d\ude00")"), std::string("\U0001F600"));
  CHECK_EQ(ScanString(R"("\uDBFF\uDFFF")"), std::string("\U0010FFFF"));
  CHECK_EQ(ScanString("\"\\u0041\xC3\xA9\""), std::string("A\u00e9"));
  for (const std::string_view text :
       {R"("\x41")", R"("\)", R"("\u12")", R"("\u12g4")", R"("\U00e9")", R"("\ud800")",
        R"("\ud800x")", R"("\ud800\n")", R"("\ud800\u0041")", R"("\udc00")", R"("\ud83d\ud83d")",
        R"("\ud800\)", R"("\ud800\u")"}) {
    CHECK_THROWS(kFormat, ScanString(text));
  }
}

TEST(Utf8IsStrict) {
  for (const std::string_view good :
       {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    CHECK_EQ(weightlift::Utf8Length(good), good.size());
    CHECK_EQ(ScanString('"' + std::string(good) + '"'), std::string(good));
  }
  for (const std::string_view bad :
       {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2\x41", "\xE0\x9F\xBF", "\xE1\x80",
        "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF1\x80\x80", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xFE", "\xFF"}) {
    CHECK_EQ(weightlift::Utf8Length(bad), 0);
    CHECK_THROWS(kFormat, ScanString('"' + std::string(bad) + '"'));
  }
  CHECK_EQ(weightlift::Utf8Length(""), 0);
}

TEST(EveryCodePointSurvives) {
  for (char32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (code_point >= 0xD800 && code_point < 0xE000) continue;
    std::string text;
    weightlift::AppendUtf8(code_point, text);
    if (weightlift::Utf8Length(text) != text.size()) {
      CHECK_EQ(static_cast<std::uint32_t>(code_point), 0);
      return;
    }
  }
}

TEST(IntegersAreDigitsOnly) {
  CHECK_EQ(ScanInteger("0"), 0);
  CHECK_EQ(ScanInteger(" 7 "), 7);
  CHECK_EQ(ScanInteger("9223372036854775808"), std::uint64_t{1} << 63);
  CHECK_EQ(ScanInteger("18446744073709551615"), ~std::uint64_t{0});
  for (const std::string_view text : {"",
                                      "-1",
                                      "-0",
                                      "+1",
                                      "01",
                                      "00",
                                      "1.0",
                                      "1.",
                                      "1e3",
                                      "1E3",
                                      "18446744073709551616",
                                      "99999999999999999999",
                                      "184467440737095516150",
                                      "\"1\"",
                                      "null",
                                      "NaN",
                                      "Infinity",
                                      "0x10",
                                      "1 2",
                                      "[1]"}) {
    CHECK_THROWS(kFormat, ScanInteger(text));
  }
}

TEST(SkippedValuesAreCheckedAllTheSame) {
  for (const std::string_view text :
       {"0", "-0", "1.5", "-1.5e+10", "1E-3", "\"a\\u0041\"", "true", "false", "null", "[]", "{}",
        "[[],{}]", "[1,2,[3,{\"a\":[4]}]]", "{\"a\":{\"b\":[1,{\"c\":null}]},\"d\":\"e\"}",
        " [ 1 , 2 ] ", "{\"a\":1,\"a\":2}"}) {
    CHECK(Skips(text));
  }
  for (const std::string_view text : {"",           "01",       "-",         "1.",
                                      ".5",         "1e",       "1e+",       "+1",
                                      "nul",        "nulL",     "True",      "tru",
                                      "NaN",        "Infinity", "-Infinity", "[",
                                      "]",          "[1",       "[1,",       "[1,]",
                                      "[,1]",       "[1 2]",    "[1}",       "{",
                                      "}",          "{]",       "{\"a\"}",   "{\"a\":}",
                                      "{\"a\":1,}", "{,}",      "{1:2}",     "{\"a\":1 \"b\":2}",
                                      "{\"a\":1]",  "\"",       "\"\\q\"",   "[\"\xFF\"]",
                                      "[\"\t\"]",   "1 1",      "[] []",     "'a'",
                                      "[1,\0]"}) {
    CHECK(!Skips(text));
  }
}

TEST(DepthIsBounded) {
  CHECK(Skips(Repeat("[", 64) + Repeat("]", 64)));
  CHECK(!Skips(Repeat("[", 65) + Repeat("]", 65)));
  CHECK(Skips(Repeat("{\"a\":[", 32) + Repeat("]}", 32)));
  CHECK(!Skips(Repeat("[", 10'000'000)));
  CHECK(!Skips(Repeat("{\"a\":", 1'000'000)));
  CHECK(!Skips(Repeat("[", 64) + Repeat("]", 65)));
}

TEST(EndsAndTokens) {
  JsonScanner empty(" \n\t\r", 0);
  CHECK(empty.Peek() == '\0');
  CHECK(!empty.Accept('{'));
  empty.ExpectEnd();
  JsonScanner nul(std::string_view("\0", 1), 0);
  CHECK(!nul.Accept('{'));
  CHECK_THROWS(kFormat, nul.ExpectEnd());
  CHECK_THROWS(kFormat, nul.Expect('{'));
}

TEST(ErrorsKnowTheirPosition) {
  JsonScanner scan("{  ?", 100);
  scan.Expect('{');
  try {
    scan.Expect('"');
    CHECK(false);
  } catch (const weightlift::Error& error) {
    CHECK_EQ(error.place().begin.value_or(0), 103);
    CHECK(std::string_view(error.what()).find("'?'") != std::string_view::npos);
  }
}
