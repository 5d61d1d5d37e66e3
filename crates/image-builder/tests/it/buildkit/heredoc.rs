//! [heredoc]: files and scripts written in the Dockerfile.

use container_runtime::Mode;

use super::case;
use crate::tests;

tests![
    heredocs_are_files_with_their_names,
    bodies_keep_every_symbol,
    a_lone_heredoc_is_a_script,
    quoted_angle_brackets_are_the_shells,
    a_shebang_names_the_interpreter,
    several_heredocs_reach_the_command_by_descriptor,
    tabs_are_stripped_on_request,
    expansion_follows_the_quotes_of_the_delimiter,
];

/// BuildKit CopyHeredoc.
fn heredocs_are_files_with_their_names() {
    let text = "FROM scratch\nCOPY <<EOF /quotes\nhello\nEOF\nCOPY <<one <<'two' /dir/\nfirst\none\n\
                second\ntwo\nCOPY --chown=7:8 --chmod=0600 <<x real /mixed/\nx body\nx\n\
                COPY << spaced /spaced\nblank before the name\nspaced\nADD <<EOF added\nby add\nEOF\n\
                COPY <<empty /\nempty\n";
    let tree = case(text).in_mode(Mode::None).files(&["real"]).tree();
    assert_eq!(
        tree,
        [
            "added 644 0:0 by add",
            "dir/ 755 0:0",
            "dir/one 644 0:0 first",
            "dir/two 644 0:0 second",
            "empty 644 0:0 ",
            "mixed/ 600 7:8",
            "mixed/real 600 7:8 real",
            "mixed/x 600 7:8 x body",
            "quotes 644 0:0 hello",
            "spaced 644 0:0 blank before the name",
        ]
    );
}

/// BuildKit CopyHeredocSpecialSymbols.
fn bodies_keep_every_symbol() {
    let text = "FROM scratch\nCOPY <<EOF quotes\n\"quotes in file\"\n'single'\nEOF\n\
                COPY <<EOF slashes1\n\\\nEOF\nCOPY <<EOF slashes2\n\\\\\nEOF\n\
                COPY <<EOF slashes3\n\\$\nEOF\nCOPY <<\"EOF\" rawslashes1\n\\\nEOF\n\
                COPY <<\"EOF\" rawslashes2\n\\\\\nEOF\nCOPY <<\"EOF\" rawslashes3\n\\$\nEOF\n";
    let tree = case(text).in_mode(Mode::None).tree();
    assert_eq!(
        tree,
        [
            "quotes 644 0:0 \"quotes in file\"\\n'single'",
            "rawslashes1 644 0:0 \\",
            "rawslashes2 644 0:0 \\\\",
            "rawslashes3 644 0:0 \\$",
            // An escape in front of the end of the line escapes it.
            "slashes1 644 0:0 ",
            "slashes2 644 0:0 \\",
            "slashes3 644 0:0 $",
        ]
    );
}

/// BuildKit RunBasicHeredoc.
fn a_lone_heredoc_is_a_script() {
    let text = "FROM base\nRUN <<EOF\necho \"i am\" `id -u` > /dest\ncat /dest\nif true; then\n  \
                echo \"$((1+1))\"\nfi\nEOF\n";
    assert_eq!(case(text).printed(), "i am 0\n2\n");
    // A shell does not stop at the first failure unless told so.
    let text = "FROM base\nRUN <<EOF\nfalse\necho on\nEOF\n";
    assert_eq!(case(text).printed(), "on\n");
    let error = case("FROM base\nRUN <<EOF\nset -e\nfalse\necho on\nEOF\n").error();
    assert!(error.ends_with("did not complete successfully: exit code: 1"), "{error}");
}

/// BuildKit RunFakeHeredoc.
fn quoted_angle_brackets_are_the_shells() {
    let text = "FROM base\nRUN echo '<<EOF'\nRUN echo \"<<EOF\"\nRUN echo $((1 << 4))\n";
    assert_eq!(case(text).printed(), "<<EOF\n<<EOF\n16\n");
}

/// BuildKit RunShebangHeredoc.
fn a_shebang_names_the_interpreter() {
    let text = "FROM base\nRUN <<EOF\n#!/bin/cat\nhello world\nEOF\n\
                RUN <<EOF\n#!/bin/sh\necho by $0\nEOF\n";
    assert_eq!(case(text).printed(), "#!/bin/cat\nhello world\nby /dev/pipes/EOF\n");
}

/// BuildKit RunComplexHeredoc.
fn several_heredocs_reach_the_command_by_descriptor() {
    let text = "FROM base\nRUN <<FILE1 cat > file1 && <<FILE2 cat > file2\ncontents 1\nFILE1\n\
                contents 2\nFILE2\nRUN cat file1 file2\nRUN cat <<A - <<B 3<<C /dev/fd/3\na\nA\nb\nB\n\
                c\nC\nRUN sh <<EOF | head -n 1\necho one\necho two\nEOF\n";
    assert_eq!(case(text).printed(), "contents 1\ncontents 2\nb\nc\none\n");
}

/// BuildKit HeredocIndent.
fn tabs_are_stripped_on_request() {
    let text = "FROM base\nCOPY <<EOF /1\n\tkept\nEOF\nCOPY <<-EOF /2\n\t\tstripped\n\t  blanks\n\tEOF\n\
                RUN <<-EOF\n\tif true; then\n\t\techo nested\n\tfi\n\tEOF\nRUN cat /1 /2\n";
    assert_eq!(case(text).printed(), "nested\n\tkept\nstripped\n  blanks\n");
}

/// BuildKit HeredocVarSubstitution.
fn expansion_follows_the_quotes_of_the_delimiter() {
    let text = "FROM base\nARG name=world\nCOPY <<EOF /c1\nhello ${name} ${none:-x} \\$name\nEOF\n\
                COPY <<'EOF' /c2\nhello ${name}\nEOF\nCOPY <<\"E\"OF /c3\n$name\nEOF\nRUN cat /c1 /c2 /c3\n\
                RUN <<EOF\nname=own\necho $name\nEOF\nRUN <<'EOF'\necho '$name' $name\nEOF\n\
                RUN cat <<EOF\n$name\nEOF\nRUN cat <<'EOF'\n$name\nEOF\n";
    assert_eq!(
        case(text).printed(),
        "hello world x $name\nhello ${name}\n$name\nown\n$name world\nworld\n$name\n"
    );
}
