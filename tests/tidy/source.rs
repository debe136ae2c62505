//! A Rust source file as the rules see it: tokens without comments and strings, the paths it names, its
//! functions, and which lines are test code. A reader of tokens, not a parser: it knows just enough of
//! the grammar for the rules, and errs on the side of seeing more.

/// One token; numbers count as words, lifetimes lose their quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Word(String),
    /// `::`
    Sep,
    Mark(char),
}

/// A path that the code names: its segments, `crate`, `self` and `super` resolved to `crate::…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub segments: Vec<String>,
    pub line: usize,
}

impl Named {
    /// Written as in the source.
    pub fn text(&self) -> String {
        self.segments.join("::")
    }

    /// Whether `pattern` (`a::b`) stands anywhere in the path; a single word only at its start.
    pub fn matches(&self, pattern: &str) -> bool {
        let wanted: Vec<&str> = pattern.split("::").collect();
        match wanted.as_slice() {
            [word] => self.segments.first().is_some_and(|first| first == word),
            _ => self.segments.windows(wanted.len()).any(|window| window == wanted),
        }
    }
}

/// A function with its length in lines, from `fn` to the closing brace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

/// One file.
pub struct Source {
    /// Relative to the root of the repository, with `/`.
    pub path: String,
    pub text: String,
    tokens: Vec<(Token, usize)>,
    /// Ranges of tokens under `#[cfg(test)]`.
    test_spans: Vec<(usize, usize)>,
    /// `mod name;` under `#[cfg(test)]`: files that are test code as a whole.
    pub test_modules: Vec<String>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let tokens = tokens(&blank(text));
        let (mut test_spans, mut test_modules) = (Vec::new(), Vec::new());
        for at in 0..tokens.len() {
            if let Some(after) = cfg_test(&tokens, at) {
                let end = item_end(&tokens, after);
                if let Some(name) = module_without_body(&tokens[after..=end.min(tokens.len() - 1)])
                {
                    test_modules.push(format!("{}/{name}", module_folder(path)));
                }
                test_spans.push((at, end));
            }
        }
        Source { path: path.into(), text: text.into(), tokens, test_spans, test_modules }
    }

    /// The top-level part of the source tree: `wire` for src/wire/…, `limits` for src/limits.rs.
    pub fn layer(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split('/').next()?.trim_end_matches(".rs"))
    }

    /// Every word with its line, test code included.
    pub fn all_words(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tokens.iter().filter_map(|(token, line)| match token {
            Token::Word(word) => Some((word.as_str(), *line)),
            _ => None,
        })
    }

    /// Lines of method calls `.name()` without arguments, outside test code.
    pub fn calls(&self, name: &str) -> Vec<usize> {
        let wanted =
            [Token::Mark('.'), Token::Word(name.into()), Token::Mark('('), Token::Mark(')')];
        let hit = |at: usize| (0..4).all(|i| self.tokens[at + i].0 == wanted[i]);
        let places = 0..self.tokens.len().saturating_sub(3);
        places.filter(|at| hit(*at) && !self.is_test(*at)).map(|at| self.tokens[at].1).collect()
    }

    fn is_test(&self, at: usize) -> bool {
        self.test_spans.iter().any(|(from, to)| (*from..=*to).contains(&at))
    }

    /// Every path of two or more segments, those of `use` trees expanded. Test code included.
    pub fn paths(&self) -> Vec<Named> {
        let (mut out, mut at, mut depth) = (Vec::new(), 0, 0);
        let mut inner: Vec<(String, usize)> = Vec::new();
        while at < self.tokens.len() {
            let mut module = module_path(&self.path);
            module.extend(inner.iter().map(|(name, _)| name.clone()));
            match &self.tokens[at].0 {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => {
                    depth -= 1;
                    inner.retain(|(_, opened)| *opened <= depth);
                }
                Token::Word(word) if word == "mod" => {
                    if let [(Token::Word(name), _), (Token::Mark('{'), _), ..] =
                        &self.tokens[at + 1..]
                    {
                        inner.push((name.clone(), depth + 1));
                    }
                }
                Token::Word(word)
                    if word == "use"
                        && !matches!(self.tokens.get(at + 1), Some((Token::Mark('<'), _))) =>
                {
                    let mut found = Vec::new();
                    at = use_tree(&self.tokens, at + 1, &[], &mut found);
                    out.extend(found.into_iter().map(|named| resolve(named, &module)));
                    continue;
                }
                Token::Word(_) => {
                    let (named, after) = inline_path(&self.tokens, at);
                    if named.segments.len() > 1 {
                        out.push(resolve(named, &module));
                    }
                    at = after;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        out
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut out = Vec::new();
        for at in 0..self.tokens.len() {
            let (Token::Word(word), line) = &self.tokens[at] else { continue };
            let Some((Token::Word(name), _)) = self.tokens.get(at + 1) else { continue };
            if word != "fn" {
                continue;
            }
            let end = item_end(&self.tokens, at);
            let (last, last_line) = &self.tokens[end.min(self.tokens.len() - 1)];
            if *last == Token::Mark('}') {
                out.push(Function { name: name.clone(), line: *line, lines: last_line - line + 1 });
            }
        }
        out
    }
}

/// Replaces comments and the inside of strings by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => find(&chars, at, |i| chars[i] == '\n'),
            ('/', Some('*')) => block_comment(&chars, at),
            ('"', _) => string(&chars, at),
            ('\'', Some('\\')) => find(&chars, at + 3, |i| chars[i] == '\'') + 1,
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
            (c, _) if c.is_alphabetic() || c == '_' => {
                let end = find(&chars, at, |i| !(chars[i].is_alphanumeric() || chars[i] == '_'));
                let word: String = chars[at..end].iter().collect();
                out.push_str(&word);
                at = end;
                if matches!(word.as_str(), "r" | "br" | "cr") {
                    let hashes = find(&chars, at, |i| chars[i] != '#') - at;
                    if chars.get(at + hashes) == Some(&'"') {
                        let end = raw_string(&chars, at + hashes, hashes);
                        wipe(&chars[at..end], &mut out);
                        at = end;
                    }
                }
                continue;
            }
            (c, _) => {
                out.push(c);
                at += 1;
                continue;
            }
        };
        let end = end.min(chars.len());
        wipe(&chars[at..end], &mut out);
        at = end;
    }
    out
}

fn wipe(chars: &[char], out: &mut String) {
    out.extend(chars.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
}

fn find(chars: &[char], from: usize, stop: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|i| stop(*i)).unwrap_or(chars.len())
}

fn block_comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string(chars: &[char], quote: usize, hashes: usize) -> usize {
    let closes = |i: usize| chars[i] == '"' && (1..=hashes).all(|n| chars.get(i + n) == Some(&'#'));
    find(chars, quote + 1, closes) + 1 + hashes
}

fn tokens(code: &str) -> Vec<(Token, usize)> {
    let mut out = Vec::new();
    for (i, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let len = if word(first) {
                let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
                out.push((Token::Word(rest[..len].into()), i + 1));
                len
            } else if rest.starts_with("::") {
                out.push((Token::Sep, i + 1));
                2
            } else {
                if !first.is_whitespace() && first != '\'' {
                    out.push((Token::Mark(first), i + 1));
                }
                first.len_utf8()
            };
            rest = &rest[len..];
        }
    }
    out
}

/// Where `#[cfg(test)]`, or `#[cfg(all(test, …))]`, begins at `at`: the place after it.
fn cfg_test(tokens: &[(Token, usize)], at: usize) -> Option<usize> {
    let [(Token::Mark('#'), _), (Token::Mark('['), _), (Token::Word(cfg), _), ..] = &tokens[at..]
    else {
        return None;
    };
    let end = (at..tokens.len()).find(|i| tokens[*i].0 == Token::Mark(']'))?;
    let has = |word: &str| tokens[at..end].iter().any(|(t, _)| *t == Token::Word(word.into()));
    (cfg == "cfg" && has("test") && !has("not") && !has("any")).then_some(end + 1)
}

/// The last token of the item that begins at `from`: its closing brace, or its semicolon.
fn item_end(tokens: &[(Token, usize)], from: usize) -> usize {
    let (mut braces, mut others) = (0, 0);
    for (at, (token, _)) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Mark('(' | '[') => others += 1,
            Token::Mark(')' | ']') => others -= 1,
            Token::Mark('{') => braces += 1,
            Token::Mark('}') => {
                braces -= 1;
                if braces < 0 {
                    // The item was a field or a variant: what encloses it ends here.
                    return at - 1;
                }
                if braces == 0 && others == 0 {
                    return at;
                }
            }
            Token::Mark(';') if braces == 0 && others == 0 => return at,
            _ => {}
        }
    }
    tokens.len()
}

fn module_without_body(item: &[(Token, usize)]) -> Option<&str> {
    let [.., (Token::Word(keyword), _), (Token::Word(name), _), (Token::Mark(';'), _)] = item
    else {
        return None;
    };
    (keyword == "mod").then_some(name)
}

/// The folder in which `mod name;` of a file is looked for.
fn module_folder(path: &str) -> String {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.into(),
        _ => path.trim_end_matches(".rs").into(),
    }
}

/// `crate::a::b` for src/a/b.rs.
fn module_path(path: &str) -> Vec<String> {
    let inside = path.split_once("src/").map_or(path, |(_, inside)| inside);
    let inside = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    let names = inside.split('/').filter(|name| !matches!(*name, "lib" | "main" | "mod"));
    std::iter::once("crate").chain(names).map(String::from).collect()
}

fn inline_path(tokens: &[(Token, usize)], from: usize) -> (Named, usize) {
    let (mut segments, mut at) = (Vec::new(), from);
    while let Some((Token::Word(word), _)) = tokens.get(at) {
        segments.push(word.clone());
        at += 1;
        match tokens.get(at..at + 2) {
            Some([(Token::Sep, _), (Token::Word(_), _)]) => at += 1,
            _ => break,
        }
    }
    (Named { segments, line: tokens[from].1 }, at)
}

/// Expands a `use` tree; gives the place after it.
fn use_tree(
    tokens: &[(Token, usize)],
    from: usize,
    prefix: &[String],
    out: &mut Vec<Named>,
) -> usize {
    let (mut at, mut path) = (from, prefix.to_vec());
    let line = tokens.get(from).map_or(0, |(_, line)| *line);
    while let Some((token, _)) = tokens.get(at) {
        match token {
            Token::Word(word) if word == "as" => at += 2,
            Token::Word(word) => {
                path.push(word.clone());
                at += 1;
            }
            Token::Sep => at += 1,
            Token::Mark('*') => {
                path.push("*".into());
                at += 1;
            }
            Token::Mark('{') => {
                at += 1;
                while tokens.get(at).is_some_and(|(token, _)| *token != Token::Mark('}')) {
                    let before = at;
                    at = use_tree(tokens, at, &path, out);
                    at += usize::from(tokens.get(at).is_some_and(|(t, _)| *t == Token::Mark(',')));
                    assert!(at > before, "line {line}: a use tree that does not end");
                }
                return at + 1;
            }
            _ => break,
        }
    }
    out.push(Named { segments: path, line });
    at
}

/// Makes `self` and `super` absolute; other paths stay as they are.
fn resolve(named: Named, module: &[String]) -> Named {
    let mut base = module.to_vec();
    let mut rest = named.segments.as_slice();
    match rest.first().map(String::as_str) {
        Some("self") => rest = &rest[1..],
        Some("super") => {}
        _ => return named,
    }
    while rest.first().is_some_and(|first| first == "super") {
        base.pop();
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    Named { segments: base, line: named.line }
}
