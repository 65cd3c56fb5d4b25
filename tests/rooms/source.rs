//! Reads the crate's sources: its modules, what each of them imports, and how long its
//! functions are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module's names, from the crate's root on.
pub(crate) type Names = Vec<String>;

/// A path in a module's code that begins with `crate`, `self` or `super`.
pub(crate) struct Import {
    /// From the crate's root on.
    pub(crate) path: Names,
    pub(crate) line: usize,
}

/// A function with a body.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From its name to the end of its body.
    pub(crate) lines: usize,
}

/// A module that is not for tests alone. Those inside of a file belong to it.
pub(crate) struct Module {
    pub(crate) names: Names,
    pub(crate) file: PathBuf,
    pub(crate) imports: Vec<Import>,
    pub(crate) functions: Vec<Function>,
    /// What stands under another name than its own: re-exports, and what `use` brings.
    used: BTreeMap<String, Names>,
}

pub(crate) struct Source {
    pub(crate) modules: BTreeMap<Names, Module>,
}

impl Source {
    /// All but the crate's root.
    pub(crate) fn inside(&self) -> impl Iterator<Item = &Module> {
        let modules = self.modules.values();
        modules.filter(|module| !module.names.is_empty())
    }

    /// Reads from `lib.rs` on whatever is declared there.
    pub(crate) fn read(root: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut left = vec![(Names::new(), root.join("src/lib.rs"))];
        while let Some((names, file)) = left.pop() {
            let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
            let code = Code::read(&names, &text);
            for child in code.children {
                left.push((joined(&names, &child), file_of(&file, &child)));
            }
            let Code {
                imports,
                functions,
                used,
                ..
            } = code;
            let file = file.strip_prefix(root).unwrap().to_owned();
            let module = Module {
                names: names.clone(),
                file,
                imports,
                functions,
                used,
            };
            modules.insert(names, module);
        }
        Self { modules }
    }

    /// The module in which what a path names is defined, re-exports looked through.
    pub(crate) fn defined_in(&self, path: &[String]) -> Names {
        self.find(path, 8)
    }

    fn find(&self, path: &[String], depth: usize) -> Names {
        let mut at = Names::new();
        for (index, name) in path.iter().enumerate() {
            let below = joined(&at, name);
            if self.modules.contains_key(&below) {
                at = below;
                continue;
            }
            let used = self.modules[&at].used.get(name);
            if let Some(used) = used.filter(|used| depth > 0 && used.as_slice() != path) {
                let path: Names = used.iter().chain(&path[index + 1..]).cloned().collect();
                return self.find(&path, depth - 1);
            }
            break;
        }
        at
    }
}

fn joined(names: &[String], name: &str) -> Names {
    let mut joined = names.to_vec();
    joined.push(name.to_owned());
    joined
}

fn file_of(parent: &Path, child: &str) -> PathBuf {
    let folder = match parent.file_stem().unwrap().to_str().unwrap() {
        "mod" | "lib" => parent.parent().unwrap().to_owned(),
        _ => parent.with_extension(""),
    };
    let file = folder.join(format!("{child}.rs"));
    match file.exists() {
        true => file,
        false => folder.join(child).join("mod.rs"),
    }
}

/// What stands in a file.
#[derive(Default)]
struct Code {
    /// Modules in files of their own.
    children: Vec<String>,
    imports: Vec<Import>,
    functions: Vec<Function>,
    used: BTreeMap<String, Names>,
}

impl Code {
    fn read(names: &[String], text: &str) -> Self {
        let mut reader = Reader {
            tokens: &tokens(text),
            at: 0,
            within: names.to_vec(),
            names,
            code: Code::default(),
        };
        reader.items();
        reader.code
    }
}

struct Token {
    text: String,
    line: usize,
}

/// Words, `::` and signs. No comments; of literals only that there is one.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let is_word = |at: usize| {
        let byte = bytes.get(at).copied().unwrap_or(b' ');
        byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
    };
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let word = || (at..).take_while(|&at| is_word(at)).count();
        let length = match bytes[at] {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").expect("a comment ends") + 2,
            b'"' => quoted(rest, 0),
            b'\'' => character(rest),
            _ if is_word(at) => match (&rest[..word()], &rest[word()..]) {
                ("r" | "br" | "cr", raw) if raw.starts_with(['"', '#']) => raw_string(rest),
                ("b" | "c", text) if text.starts_with('"') => quoted(rest, 1),
                ("b", text) if text.starts_with('\'') => 1 + character(text),
                (word, _) => word.len(),
            },
            _ if rest.starts_with("::") => 2,
            _ => 1,
        };
        let token = &rest[..length];
        if !token.starts_with("//") && !token.starts_with("/*") && !token.trim().is_empty() {
            let text = token.to_owned();
            tokens.push(Token { text, line });
        }
        line += token.matches('\n').count();
        at += length;
    }
    tokens
}

/// The length of a text whose first quotation mark stands at `from`.
fn quoted(rest: &str, from: usize) -> usize {
    let mut escaped = false;
    let end = rest[from + 1..].find(|one: char| {
        let ends = one == '"' && !escaped;
        escaped = one == '\\' && !escaped;
        ends
    });
    from + 1 + end.expect("a text ends") + 1
}

/// Of `r"…"`, `r#"…"#` or `r#name`.
fn raw_string(rest: &str) -> usize {
    let signs = rest.find(['"', '#']).unwrap();
    let hashes = rest[signs..].chars().take_while(|&one| one == '#').count();
    if !rest[signs + hashes..].starts_with('"') {
        return signs + hashes;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = signs + hashes + 1;
    begin + rest[begin..].find(&end).expect("a text ends") + end.len()
}

/// Of `'x'`, `'\n'`, or the quotation mark of a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].char_indices();
    match inside.next().map(|(_, first)| first) {
        // What is escaped may be a quotation mark.
        Some('\\') => 3 + rest[3..].find('\'').expect("a character ends") + 1,
        _ => match inside.next() {
            Some((at, '\'')) => at + 2,
            _ => 1,
        },
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// The module that the code is in, those inside of the file included.
    within: Names,
    /// The file's.
    names: &'a [String],
    code: Code,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    /// Up to the end of the file or of the module inside of it.
    fn items(&mut self) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.text(self.at) {
                "{" => depth += 1,
                "}" if depth == 0 => return,
                "}" => depth -= 1,
                "#" if self.is_for_tests() => {
                    self.skip_item();
                    continue;
                }
                "mod" => {
                    self.module();
                    continue;
                }
                "fn" => self.function(),
                "use" => {
                    self.at += 1;
                    self.tree(&[], true);
                    continue;
                }
                "crate" | "self" | "super" if self.text(self.at + 1) == "::" && !self.goes_on() => {
                    self.tree(&[], false);
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// What stands before belongs to the path, or it says who may see something.
    fn goes_on(&self) -> bool {
        self.at > 0 && matches!(self.text(self.at - 1), "::" | "in")
    }

    fn module(&mut self) {
        let name = self.text(self.at + 1).to_owned();
        let opens = self.text(self.at + 2) == "{";
        self.at += 3;
        if opens {
            self.within.push(name);
            self.items();
            self.within.pop();
            self.at += 1;
        } else {
            self.code.children.push(name);
        }
    }

    /// Goes no further itself: what stands inside is read as well.
    fn function(&mut self) {
        let name = self.text(self.at + 1).to_owned();
        let line = self.tokens[self.at].line;
        let mut at = self.at + 1;
        loop {
            match self.text(at) {
                "(" | "[" => at = self.closed(at),
                "{" => break,
                // It has no body, or it is a type.
                ";" | "," | ")" | "}" | "=" | "" => return,
                _ => at += 1,
            }
        }
        let lines = self.tokens[self.closed(at) - 1].line - line + 1;
        self.code.functions.push(Function { name, line, lines });
    }

    /// An attribute that leaves what follows to tests.
    fn is_for_tests(&self) -> bool {
        let end = self.end_of_attribute(self.at);
        let words: Vec<&str> = (self.at..end).map(|at| self.text(at)).collect();
        let is_test =
            words.contains(&"test") && !words.windows(3).any(|of| of == ["not", "(", "test"]);
        is_test && (words[2] == "cfg" || words[2] == "test")
    }

    fn end_of_attribute(&self, at: usize) -> usize {
        self.closed(at + 1)
    }

    /// Behind what closes the bracket at `at`.
    fn closed(&self, mut at: usize) -> usize {
        let mut depth = 0;
        loop {
            match self.text(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                "" => panic!("a bracket is not closed"),
                _ => {}
            }
            at += 1;
            if depth == 0 {
                return at;
            }
        }
    }

    fn skip_item(&mut self) {
        while self.text(self.at) == "#" {
            self.at = self.end_of_attribute(self.at);
        }
        let is_use = self.text(self.at) == "use";
        loop {
            match self.text(self.at) {
                "(" | "[" => self.at = self.closed(self.at),
                "{" => {
                    self.at = self.closed(self.at);
                    if !is_use {
                        return;
                    }
                }
                ";" => {
                    self.at += 1;
                    return;
                }
                "}" | "" => return,
                _ => self.at += 1,
            }
        }
    }

    /// A path or, behind `use`, a tree of them.
    fn tree(&mut self, before: &[String], is_use: bool) {
        let line = self.tokens[self.at].line;
        let mut path = before.to_vec();
        loop {
            match self.text(self.at) {
                "{" if is_use => {
                    self.at += 1;
                    while self.text(self.at) != "}" {
                        self.tree(&path, true);
                        self.at += usize::from(self.text(self.at) == ",");
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    path.push("*".to_owned());
                    self.at += 1;
                }
                "::" => {
                    self.at += 1;
                    continue;
                }
                name => {
                    let (name, ends) = (name.to_owned(), self.text(self.at + 1) != "::");
                    // `path::<T>`, `path::{` in a macro: the path is over.
                    let next = self.text(self.at + 2).to_owned();
                    let ends = ends || (!is_use && !next.starts_with(char::is_alphabetic));
                    if name != "self" || path.is_empty() {
                        path.push(name);
                    }
                    self.at += 1;
                    if !ends {
                        continue;
                    }
                }
            }
            break;
        }
        let mut name = path.last().cloned().unwrap_or_default();
        if is_use && self.text(self.at) == "as" {
            name = self.text(self.at + 1).to_owned();
            self.at += 2;
        }
        self.import(path, name, line, is_use);
    }

    fn import(&mut self, path: Names, name: String, line: usize, is_use: bool) {
        let mut rest = path.as_slice();
        let mut from = match rest[0].as_str() {
            "crate" => Names::new(),
            _ => self.within.clone(),
        };
        while let [first, others @ ..] = rest {
            match first.as_str() {
                "super" => drop(from.pop()),
                "crate" | "self" => {}
                _ => break,
            }
            rest = others;
        }
        let is_ours = rest.len() < path.len();
        from.extend_from_slice(rest);
        if is_use && self.within == self.names {
            self.code.used.insert(name, from.clone());
        }
        if is_ours {
            self.code.imports.push(Import { path: from, line });
        }
    }
}

#[test]
fn an_import_is_found_however_it_is_written() {
    let text = r##"
        //! Not [`crate::doc::Link`].
        use crate::{a::{self, B}, c::D as E};
        pub(in crate::seen) use super::sibling::*;
        #[cfg(test)]
        use crate::for_tests::{Or, Not};
        mod child;
        mod inside {
            use super::super::up::Two;
            fn quoted<'a>() -> [char; 2] { ['"', '\''] }
            const TEXT: &str = "crate::text::In \" it";
            const RAW: &str = r#"crate::raw::In "it""#;
        }
        fn f() { crate::g::h::<u8>(crate::i!(self::child::J)) }
        #[cfg(not(test))]
        fn k() { super::l() }
        #[cfg(all(test, unix))]
        mod tests { use crate::only::Tests; }
    "##;
    let module: Names = ["room", "file"].map(str::to_owned).into();
    let code = Code::read(&module, text);
    let imports = code.imports.iter().map(|import| import.path.join("::"));
    let expected = [
        "a",
        "a::B",
        "c::D",
        "room::sibling::*",
        "room::up::Two",
        "g::h",
        "i",
        "room::file::child::J",
        "room::l",
    ];
    assert_eq!(imports.collect::<Vec<_>>(), expected);
    assert_eq!(code.children, ["child"]);
    assert_eq!(code.used["E"], ["c", "D"]);
}

#[test]
fn a_function_is_as_long_as_from_its_name_to_the_end_of_its_body() {
    let text = r##"
        trait Has { fn none(&self, of: [u8; 2]); fn one(&self) {} }
        struct Ask { ask: fn(u8) -> u8, other: fn() }
        fn three<F: Fn(u8) -> u8>(f: F) -> [u8; 1]
        where F: Clone {
            const TEXT: &str = "}"; [f(1)] }
        fn outer() {
            fn inner() {
            }
        }
        #[cfg(test)]
        fn of_tests() {
        }
    "##;
    let code = Code::read(&[], text);
    let functions = code.functions.iter();
    let lengths: Vec<_> = functions.map(|of| (of.name.as_str(), of.lines)).collect();
    assert_eq!(
        lengths,
        [("one", 1), ("three", 3), ("outer", 4), ("inner", 2)]
    );
}
