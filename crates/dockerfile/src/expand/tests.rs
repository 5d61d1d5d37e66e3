//! BuildKit unit groups: ShellParserMandatoryEnvVars, ShellParser4EnvVars, ShellParser4Words,
//! ProcessWithMatches, GetEnv, ConvertShellPatternToRegex, ReversePattern.

use super::*;

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn expand(text: &str, pairs: &[(&str, &str)]) -> Result<Expansion, DockerfileError> {
    Expander::new('\\').expand(text, &variables(pairs))
}

/// The environment of BuildKit's table.
const TABLE_ENV: [(&str, &str); 4] =
    [("PWD", "/home"), ("SHELL", "bash"), ("KOREAN", "한국어"), ("NULL", "")];

fn check(text: &str, expected: &str) {
    let found = expand(text, &TABLE_ENV).map(|expansion| expansion.text);
    assert_eq!(found.as_deref().ok(), Some(expected), "{text}: {found:?}");
}

#[test]
fn quotes_and_escapes_are_resolved() {
    for (text, expected) in [
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he\"ll\"o", "hello"),
        ("he\\'llo", "he'llo"),
        ("abc\\tdef", "abctdef"),
        ("'abc\\tdef'", "abc\\tdef"),
        ("\"abc\\tdef\"", "abc\\tdef"),
        ("he\\\\llo", "he\\llo"),
        ("\"\\\\\"", "\\"),
        ("\"\\\"\"", "\""),
        ("'\\'", "\\"),
        ("abc\\", "abc"),
        ("\\\"", "\""),
        ("a b", "a b"),
        ("''", ""),
        ("한글", "한글"),
        ("\"한\\글\"", "한\\글"),
    ] {
        check(text, expected);
    }
}

#[test]
fn plain_names_are_replaced() {
    for (text, expected) in [
        ("$", "$"),
        ("he$PWD", "he/home"),
        ("he${PWD}llo", "he/homello"),
        ("he$hello", "he"),
        ("he$hello.world", "he.world"),
        ("he\\$PWD", "he$PWD"),
        ("'he$PWD'", "he$PWD"),
        ("\"he$PWD\"", "he/home"),
        ("\"he'$PWD'\"", "he'/home'"),
        ("he${hello}xx", "hexx"),
        ("$PWD$SHELL", "/homebash"),
        ("안녕$KOREAN", "안녕한국어"),
        ("${KOREAN}xx", "한국어xx"),
        ("$1", ""),
        ("$12x", "x"),
        ("$$", ""),
        ("he$", "he$"),
        ("he$.x", "he$.x"),
        ("a$PWD/b", "a/home/b"),
        ("\\${}", "${}"),
        ("\"$\"", "$"),
    ] {
        check(text, expected);
    }
}

#[test]
fn defaults_and_alternatives_follow_the_shell() {
    for (text, expected) in [
        ("he${XXX:-000}xx", "he000xx"),
        ("he${PWD:-000}xx", "he/homexx"),
        ("he${NULL:-000}xx", "he000xx"),
        ("he${NULL-000}xx", "hexx"),
        ("he${XXX-000}xx", "he000xx"),
        ("he${XXX:-$PWD}xx", "he/homexx"),
        ("he${XXX:-${PWD:-yyy}}xx", "he/homexx"),
        ("he${XXX:-${YYY:-yyy}}xx", "heyyyxx"),
        ("he${XXX:-\\$PWD:}xx", "he$PWD:xx"),
        ("he${XXX:-'a b'}xx", "hea bxx"),
        ("he${XXX:-}xx", "hexx"),
        ("he${XXX:YYY}", "error"),
        ("he${PWD:+${PWD}}xx", "he/homexx"),
        ("he${XXX:+${PWD}}xx", "hexx"),
        ("he${PWD:+000}xx", "he000xx"),
        ("he${NULL:+000}xx", "hexx"),
        ("he${NULL+000}xx", "he000xx"),
        ("he${XXX+000}xx", "hexx"),
        ("'he${XX'", "he${XX"),
        ("he${XXX:-\\}}xx", "he}xx"),
    ] {
        if expected == "error" {
            assert!(expand(text, &TABLE_ENV).is_err(), "{text}");
        } else {
            check(text, expected);
        }
    }
}

#[test]
fn broken_substitutions_are_errors() {
    for (text, message) in [
        ("\"he", "unexpected end of statement while looking for matching double-quote"),
        ("he'", "unexpected end of statement while looking for matching single-quote"),
        ("$PWD'x", "unexpected end of statement while looking for matching single-quote"),
        ("he${", "syntax error: missing '}'"),
        ("he${}", "syntax error: bad substitution"),
        ("he${:", "syntax error: bad substitution"),
        ("he${{x}}", "syntax error: bad substitution"),
        ("he${PWD", "syntax error: missing '}'"),
        ("he${PWD:", "syntax error: missing '}'"),
        ("he${PWD:-a", "syntax error: missing '}'"),
        ("he${PWD:-'a}", "syntax error: missing '}'"),
        ("${PWD:#x}", "unsupported modifier (:#) in substitution"),
        ("${PWD=a}", "unsupported modifier (=) in substitution"),
        ("${PWD:=a}", "unsupported modifier (:=) in substitution"),
        ("${PWD!}", "unsupported modifier (!) in substitution"),
        ("${PWD//ww}", "syntax error: missing '/' in ${}"),
        ("${PWD//}", "syntax error: missing '/' in ${}"),
        ("${PWD/a/b", "syntax error: missing '}'"),
        ("${PWD#\\x}", "invalid escape '\\x'"),
    ] {
        let error = expand(text, &TABLE_ENV).expect_err(text);
        assert_eq!(error.message(), message, "{text}");
    }
}

/// BuildKit ShellParserMandatoryEnvVars.
#[test]
fn mandatory_variables_fail_with_their_message() {
    let (empty, unset) = ("${VAR:?message here$ARG}", "${VAR?message here$ARG}");
    let set = [("VAR", "plain"), ("ARG", "x")];
    let null = [("VAR", ""), ("ARG", "x")];
    let none = [("ARG", "x")];
    let run = |text, pairs: &[(&str, &str)]| {
        expand(text, pairs).map(|found| found.text).map_err(|error| error.message().to_owned())
    };
    assert_eq!(run(empty, &set), Ok("plain".to_owned()));
    assert_eq!(run(empty, &null), Err("VAR: message herex".to_owned()));
    assert_eq!(run(empty, &none), Err("VAR: message herex".to_owned()));
    assert_eq!(run(unset, &set), Ok("plain".to_owned()));
    assert_eq!(run(unset, &null), Ok(String::new()));
    assert_eq!(run(unset, &none), Err("VAR: message herex".to_owned()));
    assert_eq!(run("${VAR?}", &none), Err("VAR: is not allowed to be unset".to_owned()));
    assert_eq!(run("${VAR:?}", &null), Err("VAR: is not allowed to be empty".to_owned()));
}

/// BuildKit ProcessWithMatches, ConvertShellPatternToRegex, ReverseString, ReversePattern.
#[test]
fn patterns_cut_prefixes_and_suffixes() {
    for (text, pairs, expected) in [
        (r"${FOO#()[]{\}^$.\*\?|\\}", &[("FOO", r"()[]{}^$.*?|\x")][..], "x"),
        (r"${FOO%%\**}", &[("FOO", "xx**")], "xx"),
        ("${FOO#*x*y}", &[("FOO", "xxyy")], "y"),
        ("${FOO#*}", &[("FOO", "xxyy")], "xxyy"),
        ("${FOO##*}", &[("FOO", "xxyy")], ""),
        ("${FOO#$BAR}", &[("FOO", "xxyy"), ("BAR", "x")], "xyy"),
        ("${FOO#$BAR}", &[("FOO", "xxyy"), ("BAR", "")], "xxyy"),
        ("${FOO#}", &[("FOO", "xxyy")], "xxyy"),
        ("${FOO##*x}", &[("FOO", "xxyy")], "yy"),
        ("${FOO##}", &[("FOO", "xxyy")], "xxyy"),
        (r"${FOO#?\?}", &[("FOO", "???y")], "?y"),
        ("${ABC:-.}${FOO%x}${ABC:-.}", &[("FOO", "xxyy")], ".xxyy."),
        (r"${FOO%%\**\*}", &[("FOO", "a***yy*")], "a"),
        ("${FOO%}", &[("FOO", "xxyy")], "xxyy"),
        ("${FOO%%$BAR}", &[("FOO", "xxyy"), ("BAR", "")], "xxyy"),
        ("${FOO%.*}", &[("FOO", "a.tar.gz")], "a.tar"),
        ("${FOO%%.*}", &[("FOO", "a.tar.gz")], "a"),
        ("${FOO##*/}", &[("FOO", "/usr/bin/x")], "x"),
        ("${FOO%é}", &[("FOO", "caffé")], "caff"),
        ("${FOO#x}", &[], ""),
    ] {
        assert_eq!(expand(text, pairs).expect(text).text, expected, "{text}");
    }
}

/// BuildKit ProcessWithMatches.
#[test]
fn patterns_replace_first_or_all() {
    for (text, pairs, expected) in [
        (
            "${FOO/$NEEDLE/.} - ${FOO//$NEEDLE/.}",
            &[("FOO", "/foo*/*/*.txt"), ("NEEDLE", r"\*/")][..],
            "/foo.*/*.txt - /foo..*.txt",
        ),
        (
            "${FOO/$NEEDLE/} - ${FOO//$NEEDLE/}",
            &[("FOO", "/tmp/tmp/bar.txt"), ("NEEDLE", "/tmp")],
            "/tmp/bar.txt - /bar.txt",
        ),
        (
            "${FOO/$NEEDLE/$REPLACEMENT} - ${FOO//$NEEDLE/$REPLACEMENT}",
            &[("FOO", "/a/foo/b/c.txt"), ("NEEDLE", "/?/"), ("REPLACEMENT", "/")],
            "/foo/b/c.txt - /foo/c.txt",
        ),
        (
            "${FOO/$NEEDLE/$REPLACEMENT}",
            &[("FOO", "http://google.de"), ("NEEDLE", "http://"), ("REPLACEMENT", "https://")],
            "https://google.de",
        ),
        (r"${FOO//\//\/}", &[("FOO", "/tmp/foo.txt")], r"\/tmp\/foo.txt"),
        ("${FOO/$BAR/ww}", &[("FOO", "xxyy"), ("BAR", "")], "wwxxyy"),
        ("${FOO///}", &[("FOO", "xxyy")], "xxyy"),
        ("${FOO///}", &[], ""),
        ("${FOO/x*y/-}", &[("FOO", "axyxyb")], "a-b"),
    ] {
        assert_eq!(expand(text, pairs).expect(text).text, expected, "{text}");
    }
}

/// BuildKit ProcessWithMatches.
#[test]
fn used_names_are_reported() {
    let names = |text: &str| {
        let found = expand(text, &[("FOO", "xxx"), ("BAR", "")]).expect(text);
        (
            found.matched.into_iter().collect::<Vec<_>>().join(","),
            found.undefined.into_iter().collect::<Vec<_>>().join(","),
        )
    };
    assert_eq!(names("x"), (String::new(), String::new()));
    assert_eq!(names("x ${UNUSED}"), (String::new(), "UNUSED".into()));
    assert_eq!(names("x $FOO $BAR"), ("BAR,FOO".into(), String::new()));
    // A default says that being unset is expected.
    assert_eq!(names("${FOO-aaa} ${BAR-bbb} ${BAZ-ccc}"), ("BAR,FOO".into(), String::new()));
    assert_eq!(names("${BAZ#a} ${QUX/a/b}"), (String::new(), "BAZ,QUX".into()));
}

/// BuildKit's word table.
#[test]
fn words_split_at_unquoted_blanks_only() {
    let env = [("x", "my words"), ("q", "\"a b\""), ("e", "")];
    for (text, expected) in [
        ("hello", &["hello"][..]),
        ("hello world", &["hello", "world"]),
        ("  hello   world ", &["hello", "world"]),
        ("'hello world'", &["hello world"]),
        ("\"hello world\"", &["hello world"]),
        ("hello\\ world", &["hello world"]),
        ("$x", &["my", "words"]),
        ("\"$x\"", &["my words"]),
        ("a$x", &["amy", "words"]),
        ("a${x}b", &["amy", "wordsb"]),
        ("$e", &[]),
        ("\"\"", &[]),
        ("a\"b c\"d", &["ab cd"]),
        ("$q", &["\"a", "b\""]),
        ("it\\'s", &["it's"]),
    ] {
        assert_eq!(expand(text, &env).expect(text).words, expected, "{text}");
    }
}

#[test]
fn unset_variables_can_be_kept() {
    let keep = Expander { quotes: Quotes::Keep, unset: Unset::Keep, ..Expander::new('\\') };
    let env = variables(&[("A", "1")]);
    for (text, expected) in [
        ("\"$A $B ${C}\" 'x'", "\"1 $B ${C}\" 'x'"),
        ("${B:-x} ${B+y} ${B#p} ${B/a/b} ${B//a/b}", "${B:-x} ${B+y} ${B#p} ${B/a/b} ${B//a/b}"),
    ] {
        assert_eq!(keep.expand(text, &env).expect(text).text, expected, "{text}");
    }
}

#[test]
fn backtick_is_an_escape_when_asked() {
    let found = Expander::new('`').expand("a` b \\$A `$A \"`\"\"", &variables(&[("A", "1")]));
    assert_eq!(found.expect("an expansion").text, "a b \\1 $A \"");
}

/// BuildKit ProcessWithMatchesPlatform.
#[test]
fn release_names_are_made_of_platform_arguments() {
    let text = "x-${VERSION}.${TARGETOS}-${TARGETARCH}${TARGETVARIANT:+-${TARGETVARIANT}}.tar.gz";
    let env = [("VERSION", "v1.2.3"), ("TARGETOS", "linux"), ("TARGETARCH", "arm")];
    assert_eq!(expand(text, &env).expect(text).text, "x-v1.2.3.linux-arm.tar.gz");
    let env = [&env[..], &[("TARGETVARIANT", "v7")]].concat();
    assert_eq!(expand(text, &env).expect(text).text, "x-v1.2.3.linux-arm-v7.tar.gz");
}

#[test]
fn nesting_and_growth_are_bounded() {
    let deep = format!("{}x{}", "${A:-".repeat(1000), "}".repeat(1000));
    assert_eq!(expand(&deep, &[]).expect_err("deep").kind(), ErrorKind::Limit);
    let value = "x".repeat(EXPANSION_BYTES_MAX / 2);
    let error = expand("$A$A$A", &[("A", &value)]).expect_err("long");
    assert_eq!(error.kind(), ErrorKind::Limit);
    let error = expand("${A##*a*b*c*d*e*f*g*h*i*j*k*l*m*n*o*p}", &[("A", &value)]);
    assert_eq!(error.expect_err("slow").kind(), ErrorKind::Limit);
}

/// BuildKit ShellParser4EnvVars, the rows for Unix.
#[test]
fn env_var_table() {
    let rows = r#"
hello|hello
he'll'o|hello
he'llo|error
he\'llo|he'llo
he\\'llo|error
abc\tdef|abctdef
"abc\tdef"|abc\tdef
"abc\\tdef"|abc\tdef
'abc\tdef'|abc\tdef
hello\|hello
hello\\|hello\
"hello|error
"hello\"|error
"hel'lo"|hel'lo
'hello|error
'hello\'|hello\
'hello\\there'|hello\\there
"''"|''
$.|$.
$1|
he$1x|hex
he$pwd.|he.
he\\$PWD|he\/home
"he\$PWD"|he$PWD
"he\\$PWD"|he\/home
\${}aaa|${}aaa
${}aaa|error
he${hi}xx|hexx
he${.}|error
he${XXX:YYY}|error
he${PWD:+${XXX}}xx|hexx
he${PWD:+${SHELL}}xx|hebashxx
'\$PWD'|\$PWD
'"hello"'|"hello"
he${PWD|error
he${PWD:=000}xx|error
he${PWD:+${PWD}:}xx|he/home:xx
he${XXX:-\$PWD:}xx|he$PWD:xx
he${XXX:-\${PWD}z}xx|he${PWDz}xx
안'녕하세요|error
안\\'녕하세요|error
안녕$PWD|안녕/home
$KOREAN|한국어
${{aaa}|error
${aaa}}|}
${aaa|error
${{aaa:-bbb}|error
${aaa:-bbb}}|bbb}
${aaa:-bbb|error
${aaa:-${bbb:-ccc}}|ccc
${aaa:-bbb ${foo}|error
${aaa:-bbb {foo}|bbb {foo
${:}|error
${:-bbb}|error
${:+bbb}|error
"#;
    for row in rows.lines().filter(|row| !row.is_empty()) {
        let (text, expected) = row.split_once('|').expect("two columns");
        let found = expand(text, &TABLE_ENV).map_or("error".to_owned(), |found| found.text);
        assert_eq!(found, expected, "{text}");
    }
}
