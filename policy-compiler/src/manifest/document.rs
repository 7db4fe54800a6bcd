// SPDX-License-Identifier: Apache-2.0
//! The documents of a file, with Lists taken apart and what is no manifest refused.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Content, Locator, Node,
    kind::Kind,
    text::{self, Chunk, Malformed},
};
use crate::diagnostic::{Diagnostic, Location, ObjectRef, Severity};

/// One Kubernetes object as it was written.
#[derive(Clone, Debug)]
pub struct Document {
    /// `apiVersion`; empty if absent.
    pub api_version: Arc<str>,
    /// `kind`; empty if absent, then the document is no Kubernetes object.
    pub kind: Arc<str>,
    /// `metadata.namespace`, where written.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`, where written.
    pub name: Option<Arc<str>>,
    /// The whole object.
    pub node: Node,
    /// Where the object starts.
    pub location: Location,
}

impl Document {
    /// The object as JSON.
    pub fn value(&self) -> Value {
        self.node.to_value()
    }

    /// Finds the places of the object's fields.
    pub fn locator(&self) -> Locator<'_> {
        Locator::new(&self.location.file, &self.node)
    }

    /// The object's identity as written.
    pub fn object_ref(&self) -> ObjectRef {
        ObjectRef {
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone().unwrap_or_default(),
        }
    }
}

/// Reads every document of a YAML or JSON file called `file`.
///
/// Lists (`List`, `PodList`, ...) are replaced by their items, however deep; empty documents vanish.
/// Each document that cannot be read is one diagnostic with its place, and does not hide the others.
pub fn read(file: &str, text: &str) -> (Vec<Document>, Vec<Diagnostic>) {
    let mut reader = FileReader {
        file: file.into(),
        has_braces: text.contains("{{"),
        documents: Vec::new(),
        diagnostics: Vec::new(),
    };
    if let Some(tool) = BuiltBy::of(file) {
        reader.refuse_build_file(tool);
        return (reader.documents, reader.diagnostics);
    }
    for chunk in text::split(text).into_iter().flat_map(text::split_json) {
        match text::parse(&chunk) {
            Ok(parsed) => {
                if parsed.nodes.iter().any(|node| node.get("kind").is_some()) {
                    for (line, column) in parsed.letters {
                        reader.letter(line, column);
                    }
                }
                for node in parsed.nodes {
                    reader.document(node);
                }
            }
            Err(malformed) => reader.malformed(&chunk, malformed),
        }
    }
    (reader.documents, reader.diagnostics)
}

struct FileReader {
    file: Arc<str>,
    /// Something in the file may be a template.
    has_braces: bool,
    documents: Vec<Document>,
    diagnostics: Vec<Diagnostic>,
}

impl FileReader {
    fn document(&mut self, node: Node) {
        let (line, column) = (node.line, node.column);
        match &node.content {
            Content::Null => {}
            Content::Map(_) => self.object(node, None),
            Content::Bool(_) | Content::Number(_) | Content::String(_) | Content::List(_) => {
                let found = describe(&node.content);
                self.report(
                    MALFORMED,
                    &format!("expected a Kubernetes object, found {found}"),
                    line,
                    column,
                );
            }
        }
    }

    /// Takes a document apart if it is a list. `parent` says what items of a typed list are.
    fn object(&mut self, mut node: Node, parent: Option<(&str, &str)>) {
        let text = |node: &Node, key| node.get(key).and_then(Node::as_str).map(str::to_owned);
        let kind = text(&node, "kind").or_else(|| parent.map(|p| p.1.to_owned()));
        let api_version = text(&node, "apiVersion").or_else(|| parent.map(|p| p.0.to_owned()));
        let kind = kind.unwrap_or_default();
        let api_version = api_version.unwrap_or_default();
        if let Some(items) = list_items(&kind, &mut node) {
            let item_kind = kind.strip_suffix("List").unwrap_or_default();
            let parent = (!item_kind.is_empty()).then_some((api_version.as_str(), item_kind));
            for item in items {
                match item.content {
                    Content::Map(_) => self.object(item, parent),
                    Content::Null
                    | Content::Bool(_)
                    | Content::Number(_)
                    | Content::String(_)
                    | Content::List(_) => {
                        let found = describe(&item.content);
                        let message = format!("expected an object in `items`, found {found}");
                        self.report(MALFORMED, &message, item.line, item.column);
                    }
                }
            }
            return;
        }
        // A kind of somebody else's may end in `List` and mean something else by `items`.
        let lists = kind.strip_suffix("List").is_some_and(|item| {
            item.is_empty() || !matches!(Kind::of(&api_version, item), Kind::Other | Kind::None)
        });
        if lists && node.get("items").is_none() {
            self.report(MALFORMED, "`items` is missing", node.line, node.column);
            return;
        }
        if kind != "List" && kind.eq_ignore_ascii_case("List") {
            let message = format!("there is no kind `{kind}`");
            let diagnostic = self.report(MALFORMED, &message, node.line, node.column);
            diagnostic.help = Some("there is a List".to_owned());
            return;
        }
        if let (true, Some(items)) = (lists, node.get("items")) {
            let found = describe(&items.content);
            let message = format!("expected a list in `items`, found {found}");
            self.report(MALFORMED, &message, items.line, items.column);
            return;
        }
        let is_kustomization = kind == "Kustomization" && api_version.is_empty();
        if is_kustomization || api_version.starts_with("kustomize.config.k8s.io/") {
            self.report_build_file(BuiltBy::Kustomize, node.line, node.column);
            return;
        }
        let looks_like_one = ["metadata", "spec"]
            .iter()
            .any(|key| node.get(key).is_some());
        if kind.is_empty() && (!api_version.is_empty() || looks_like_one) {
            self.report(MALFORMED, "`kind` is missing", node.line, node.column);
            return;
        }
        if api_version.is_empty() && node.get("metadata").is_some() {
            self.report(MALFORMED, "`apiVersion` is missing", node.line, node.column);
            return;
        }
        let template = self
            .has_braces
            .then(|| find_template(&kind, &api_version, &node));
        if let Some((line, column)) = template.flatten() {
            let object = ObjectRef {
                kind: kind.into(),
                namespace: None,
                name: "".into(),
            };
            self.helm_template(Some(object), line, column);
            return;
        }
        if !kind.is_empty() {
            self.boolean_keys(&node);
        }
        let metadata = |key| {
            let text = node.get("metadata")?.get(key)?.as_str()?;
            Some(Arc::from(text))
        };
        self.documents.push(Document {
            namespace: metadata("namespace"),
            name: metadata("name"),
            api_version: api_version.into(),
            kind: kind.into(),
            location: self.place(node.line, node.column),
            node,
        });
    }

    fn boolean_keys(&mut self, node: &Node) {
        match &node.content {
            Content::Map(entries) => {
                for entry in entries {
                    if entry.boolean_key {
                        let message = format!("YAML reads this key as the boolean `{}`", entry.key);
                        let at = Some(self.place(entry.line, entry.column));
                        self.diagnostics.push(Diagnostic {
                            help: Some("put the key in quotes".to_owned()),
                            ..Diagnostic::new("yaml-boolean-name", Severity::Warning, &message, at)
                        });
                    }
                    self.boolean_keys(&entry.value);
                }
            }
            Content::List(items) => items.iter().for_each(|item| self.boolean_keys(item)),
            Content::Null | Content::Bool(_) | Content::Number(_) | Content::String(_) => {}
        }
    }

    fn letter(&mut self, line: u32, column: u32) {
        let message = "kubectl reads this letter as a boolean";
        let at = Some(self.place(line, column));
        self.diagnostics.push(Diagnostic {
            help: Some("put it in quotes".to_owned()),
            ..Diagnostic::new("yaml-boolean-name", Severity::Warning, message, at)
        });
    }

    fn malformed(&mut self, chunk: &Chunk<'_>, malformed: Malformed) {
        let Malformed {
            message,
            line,
            column,
        } = malformed;
        if chunk.text.contains("{{") {
            self.helm_template(sniff(chunk.text), line, column);
            return;
        }
        let help = message
            .starts_with("tabs ")
            .then(|| "YAML is indented with spaces only".to_owned());
        let diagnostic = self.report(MALFORMED, &message, line, column);
        diagnostic.help = help;
        diagnostic.object = sniff(chunk.text);
    }

    fn helm_template(&mut self, object: Option<ObjectRef>, line: u32, column: u32) {
        let message = "this is a template, not a manifest: `{{` is left to be filled in";
        let diagnostic = self.report("helm-template", message, line, column);
        diagnostic.object = object;
        diagnostic.help = Some(BuiltBy::Helm.help().to_owned());
    }

    fn refuse_build_file(&mut self, tool: BuiltBy) {
        self.report_build_file(tool, 1, 1);
    }

    fn report_build_file(&mut self, tool: BuiltBy, line: u32, column: u32) {
        let (id, message) = match tool {
            BuiltBy::Kustomize => (
                "kustomization-directory",
                "this directory is input of kustomize, not manifests",
            ),
            BuiltBy::Helm => (
                "helm-chart",
                "this directory is a Helm chart, not manifests",
            ),
        };
        self.report(id, message, line, column).help = Some(tool.help().to_owned());
    }

    fn report(
        &mut self,
        id: &'static str,
        message: &str,
        line: u32,
        column: u32,
    ) -> &mut Diagnostic {
        let at = Some(self.place(line, column));
        let diagnostic = Diagnostic::new(id, Severity::Error, message, at);
        self.diagnostics.push(diagnostic);
        let last = self.diagnostics.len() - 1;
        &mut self.diagnostics[last]
    }

    fn place(&self, line: u32, column: u32) -> Location {
        Location {
            file: self.file.clone(),
            line,
            column,
        }
    }
}

/// The programs whose input looks like manifests.
#[derive(Clone, Copy)]
enum BuiltBy {
    Helm,
    Kustomize,
}

impl BuiltBy {
    fn of(file: &str) -> Option<Self> {
        match file.rsplit(['/', '\\']).next() {
            Some("kustomization.yaml" | "kustomization.yml" | "Kustomization") => {
                Some(Self::Kustomize)
            }
            Some("Chart.yaml" | "Chart.yml") => Some(Self::Helm),
            _ => None,
        }
    }

    const fn help(self) -> &'static str {
        match self {
            Self::Helm => {
                "read the rendered chart: `--helm CHART`, or `helm template CHART | netpol-analyze -f -`"
            }
            Self::Kustomize => {
                "read what it builds: `-k DIR`, or `kustomize build DIR | netpol-analyze -f -`"
            }
        }
    }
}

/// The id of diagnostics about text that holds no object.
const MALFORMED: &str = "malformed-document";

/// The ids of diagnostics that stand for a document nobody could read.
pub const UNREADABLE: [&str; 4] = [
    MALFORMED,
    "helm-template",
    "helm-chart",
    "kustomization-directory",
];

fn list_items(kind: &str, node: &mut Node) -> Option<Vec<Node>> {
    if !kind.ends_with("List") {
        return None;
    }
    let Content::Map(entries) = &mut node.content else {
        return None;
    };
    let items = entries.iter_mut().find(|entry| entry.key == "items")?;
    match std::mem::replace(&mut items.value.content, Content::Null) {
        Content::List(items) => Some(items),
        Content::Null => Some(Vec::new()),
        other => {
            items.value.content = other;
            None
        }
    }
}

/// The first string with template braces in a part of the object that decides about traffic. Commands,
/// annotations and other free text may hold braces of their own, and so may any part of an object whose
/// kind decides nothing.
fn find_template(kind: &str, api_version: &str, node: &Node) -> Option<(u32, u32)> {
    let kind = Kind::of(api_version, kind);
    let spec = node
        .get("spec")
        .filter(|_| !matches!(kind, Kind::Other | Kind::None));
    let metadata = node.get("metadata");
    metadata.into_iter().chain(spec).find_map(find_braces)
}

fn find_braces(node: &Node) -> Option<(u32, u32)> {
    match &node.content {
        Content::String(text) => {
            (text.contains("{{") && text.contains("}}")).then_some((node.line, node.column))
        }
        Content::List(items) => items.iter().find_map(find_braces),
        Content::Map(entries) => entries
            .iter()
            .filter(|entry| !FREE_TEXT.contains(&&*entry.key))
            .find_map(|entry| {
                let key = entry
                    .key
                    .contains("{{")
                    .then_some((entry.line, entry.column));
                key.or_else(|| find_braces(&entry.value))
            }),
        Content::Null | Content::Bool(_) | Content::Number(_) => None,
    }
}

/// Fields in which braces may be meant.
const FREE_TEXT: [&str; 4] = [
    "annotations",
    "containers",
    "initContainers",
    "managedFields",
];

/// What an unreadable document seems to be, from its lines.
fn sniff(text: &str) -> Option<ObjectRef> {
    let field = |indented: bool, key: &str| {
        text.lines().find_map(|line| {
            let content = line.trim_start();
            let value = content.strip_prefix(key)?.strip_prefix(':')?;
            let value = value.split('#').next()?.trim().trim_matches(['"', '\'']);
            let fits = (content.len() < line.len()) == indented
                && !value.is_empty()
                && !value.contains("{{");
            fits.then(|| Arc::<str>::from(value))
        })
    };
    Some(ObjectRef {
        kind: field(false, "kind")?,
        namespace: field(true, "namespace"),
        name: field(true, "name").unwrap_or_default(),
    })
}

pub(crate) fn describe(content: &Content) -> &'static str {
    match content {
        Content::Null => "nothing",
        Content::Bool(_) => "a boolean",
        Content::Number(_) => "a number",
        Content::String(_) => "a string",
        Content::List(_) => "a list",
        Content::Map(_) => "an object",
    }
}
