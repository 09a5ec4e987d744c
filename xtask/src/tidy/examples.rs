//! Rules about what the documentation of a crate shows.

use super::tree::{Source, Tree};

/// The crates that promise to show how each of their public items is used.
const SHOWN: &[&str] = &["esker-buf", "esker-ring"];

/// Each public type has an example of its own, and each public function one of its own or a place in
/// another one of its file.
pub(super) fn public_items_are_shown(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for source in SHOWN.iter().flat_map(|package| tree.shipped_code(package)) {
        offences.extend(not_shown(source));
    }
    offences
}

fn not_shown(source: &Source) -> Vec<String> {
    let mut items = Vec::new();
    let mut examples = String::new();
    // Whether the documentation above has an example, and whether it is in one.
    let (mut has_example, mut in_example) = (false, false);
    for (line, number) in source.without_tests().lines().zip(1..) {
        let line = line.trim();
        if let Some(doc) = line.strip_prefix("///").or(line.strip_prefix("//!")) {
            if doc.trim_start().starts_with("```") {
                in_example = !in_example;
                has_example = true;
            } else if in_example {
                examples += doc;
                examples.push('\n');
            }
        } else if let Some(item) = item(line) {
            items.push((number, item, has_example));
            has_example = false;
        } else if line.ends_with(['{', '}', ';']) {
            // Something else was documented.
            has_example = false;
        }
    }
    let is_called = |name: &str| {
        let calls = [format!(".{name}("), format!("::{name}")];
        calls.iter().any(|call| examples.contains(call))
    };
    let mut offences = Vec::new();
    for (number, item, has_example) in items {
        let (name, is_shown) = match item {
            Item::Type(name) => (name, has_example),
            Item::Function(name) => (name, has_example || is_called(name)),
        };
        if !is_shown {
            offences.push(format!(
                "{}:{number}: no example shows `{name}`",
                source.path
            ));
        }
    }
    offences
}

enum Item<'s> {
    Type(&'s str),
    Function(&'s str),
}

/// The public item that begins in a line.
fn item(line: &str) -> Option<Item<'_>> {
    let mut words = line.strip_prefix("pub ")?.split_whitespace();
    let kind = words.find(|word| !["const", "unsafe", "async"].contains(word))?;
    let name = words.next()?;
    let name = name
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()?;
    match kind {
        "fn" => Some(Item::Function(name)),
        "struct" | "enum" | "trait" => Some(Item::Type(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(text: &str) -> Vec<String> {
        let mut tree = Tree::default();
        tree.packages.insert("esker-ring".into(), "ring".into());
        tree.sources.push(Source {
            path: "ring/src/ring.rs".into(),
            text: text.into(),
        });
        public_items_are_shown(&tree)
    }

    #[test]
    fn a_type_needs_an_example_of_its_own() {
        let bare = "/// A ring.\n#[must_use]\npub struct Ring(u8);\n";
        assert_eq!(
            offences(bare),
            ["ring/src/ring.rs:3: no example shows `Ring`"]
        );
        let shown = "/// A ring.\n/// ```\n/// Ring::new();\n/// ```\n#[must_use]\n";
        assert!(offences(&format!("{shown}pub struct Ring(u8);\n")).is_empty());
        let of_another = format!("{shown}mod other;\n{bare}");
        assert_eq!(offences(&of_another).len(), 1);
    }

    #[test]
    fn a_function_may_be_shown_by_another_ones_example() {
        let both = |code: &str| {
            offences(&format!(
                "/// ```\n/// {code}\n/// ```\npub fn one() {{}}\n/// It.\npub const fn two() {{}}\n"
            ))
        };
        assert_eq!(both("one();").len(), 1);
        assert!(both("ring.two();").is_empty());
        assert!(both("map(Ring::two);").is_empty());
    }

    #[test]
    fn what_is_not_public_needs_none() {
        assert!(offences("/// It.\npub(crate) fn one() {}\nfn two() {}\n").is_empty());
    }
}
