//! The modules that each file of src imports, from its `use` items and from the paths in it. What only tests have is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

/// A module that is a file, by its path below the crate: `["data", "journal"]`. The crate's root is empty.
pub type Module = Vec<String>;

/// The modules that each module imports.
pub fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    read(&root, &mut Vec::new(), &mut files);
    let known: BTreeSet<Module> = files.keys().cloned().collect();
    let mut seen: BTreeMap<Module, Seen> = BTreeMap::new();
    for (module, source) in &files {
        let mut visit = Seen { inline: Vec::new(), paths: Vec::new(), tests: BTreeSet::new() };
        visit.visit_file(&syn::parse_file(source).unwrap_or_else(|error| panic!("{module:?}: {error}")));
        seen.insert(module.clone(), visit);
    }
    let tests: BTreeSet<Module> = seen
        .iter()
        .flat_map(|(module, visit)| {
            visit.tests.iter().map(|name| [module.as_slice(), std::slice::from_ref(name)].concat())
        })
        .collect();
    let is_test = |module: &[String]| (1..=module.len()).any(|count| tests.contains(&module[..count]));
    seen.iter()
        .filter(|(module, _)| !is_test(module))
        .map(|(module, visit)| {
            let targets =
                visit.paths.iter().filter_map(|(inline, path)| resolve(module, inline, path, &known));
            (module.clone(), targets.filter(|target| target != module && !is_test(target)).collect())
        })
        .collect()
}

/// The sources below a folder, by module.
fn read(folder: &Path, module: &mut Module, files: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of src") {
        let path = entry.expect("an entry of src").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a plain name").to_owned();
        if path.is_dir() {
            module.push(stem);
            read(&path, module, files);
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "main" {
            let of = if stem == "lib" { Vec::new() } else { [module.as_slice(), &[stem]].concat() };
            files.insert(of, std::fs::read_to_string(&path).expect("a file of src"));
        }
    }
}

/// The file's module that a path leads to; `None` where it leads out of the crate.
fn resolve(
    module: &[String],
    inline: &[String],
    path: &[String],
    known: &BTreeSet<Module>,
) -> Option<Module> {
    let mut rest = path;
    let mut base: Module = [module, inline].concat();
    match path.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while let Some(("super", below)) =
                rest.split_first().map(|(first, below)| (first.as_str(), below))
            {
                base.pop();
                rest = below;
            }
        }
        // A module below this one. Anything else that begins a path is in scope by a `use`, or another crate's.
        child if known.contains(&[base.as_slice(), &[child.to_owned()]].concat()) => {}
        _ => return None,
    }
    for name in rest {
        base.push(name.clone());
        if !known.contains(&base) {
            base.pop();
            break;
        }
    }
    while !known.contains(&base) {
        base.pop()?;
    }
    Some(base)
}

/// The paths of one file.
struct Seen {
    /// The inline modules around what is being visited.
    inline: Vec<String>,
    /// Each path, with the inline modules around it.
    paths: Vec<(Vec<String>, Vec<String>)>,
    /// The modules that are declared for tests.
    tests: BTreeSet<String>,
}

impl Seen {
    fn add(&mut self, path: Vec<String>) {
        self.paths.push((self.inline.clone(), path));
    }

    fn add_use(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_use(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => self.add(before.to_vec()),
            syn::UseTree::Name(name) => self.add(with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(with(&rename.ident)),
            syn::UseTree::Glob(_) => self.add(before.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.add_use(before, item)),
        }
    }

    /// The paths in a macro's tokens: names that `::` joins. A macro can declare modules, too.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut before: Option<String> = None;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        before = self.end_path(&mut path);
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    let is_module = before.as_deref() == Some("mod");
                    let name = self.end_path(&mut path).filter(|_| is_module);
                    let depth = self.inline.len();
                    self.inline.extend(name);
                    self.add_tokens(group.stream());
                    self.inline.truncate(depth);
                    before = None;
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.end_path(&mut path);
                    before = None;
                    colons = 0;
                }
            }
        }
        self.end_path(&mut path);
    }

    /// Takes a path that is complete; its name where it is of one name.
    fn end_path(&mut self, path: &mut Vec<String>) -> Option<String> {
        let whole = std::mem::take(path);
        let name = if whole.len() == 1 { whole.first().cloned() } else { None };
        if whole.len() > 1 {
            self.add(whole);
        }
        name
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Seen {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            syn::visit::visit_item(self, item);
        } else if let syn::Item::Mod(item) = item {
            self.tests.insert(item.ident.to_string());
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.inline.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.inline.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.add_tokens(item.tokens.clone());
    }
}
