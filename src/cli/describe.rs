//! `rowstream describe`: the manual of every setting, from the tables that check them, and of every type ([`super::type_pages`]).
//!
//! The same text is `config/reference/`; a test compares the two, so the reference can't go stale.

use std::{io::Write, path::PathBuf};

use clap::Args;
use rowstream_api::{FieldDoc, FieldKind};

use super::{
    exit::Failure,
    table::Table,
    type_pages::{self, TypePage},
};
use crate::{
    config::{connector::FRAME_FIELDS, transforms::STEP_FIELDS, worker::WORKER_FIELDS},
    registry::{self, PluginKind},
};

/// Arguments of `describe`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream describe
  rowstream describe webhook
  rowstream describe worker
  rowstream describe types-postgres
  rowstream describe --markdown config/reference")]
pub(super) struct DescribeArgs {
    /// A connector, `worker` for worker.yaml, `connector` for what every connector file has, `transform-NAME`,
    /// or `types-postgres` and `types-mysql` for what each type becomes
    page: Option<String>,
    /// Write all pages as Markdown files into this directory
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "page")]
    markdown: Option<PathBuf>,
}

/// One page of the reference.
struct Page {
    name: String,
    title: String,
    about: String,
    /// Other pages that belong to it.
    see: Vec<String>,
    body: Body,
}

enum Body {
    Settings(&'static [FieldDoc]),
    Types(TypePage),
}

/// Prints a page, the list of pages, or writes them all.
pub(super) fn describe(args: &DescribeArgs, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(directory) = &args.markdown {
        std::fs::create_dir_all(directory)?;
        for (file, text) in reference() {
            std::fs::write(directory.join(&file), text)?;
            writeln!(out, "{}", directory.join(&file).display())?;
        }
        return Ok(());
    }
    let pages = pages();
    let Some(name) = &args.page else {
        let mut table = Table::new(&["PAGE", "ABOUT"]);
        for page in &pages {
            table.row([page.name.clone(), page.title.clone()]);
        }
        table.write(out)?;
        return Ok(writeln!(out, "\n`rowstream describe PAGE` explains every setting, or every type.")?);
    };
    let page = pages.iter().find(|page| page.name == *name).ok_or_else(|| {
        let known: Vec<&str> = pages.iter().map(|p| p.name.as_str()).collect();
        Failure::Failed(format!("there is no page `{name}`, expected one of {}", known.join(", ")))
    })?;
    Ok(out.write_all(plain(page).as_bytes())?)
}

/// Every Markdown file of the reference, by name.
pub(super) fn reference() -> Vec<(String, String)> {
    let pages = pages();
    let mut index =
        "# Reference\n\nWritten by `rowstream describe --markdown config/reference`; do not edit.\n\n"
            .to_owned();
    for page in &pages {
        index.push_str(&format!("- [{}]({}.md): {}\n", page.name, page.name, page.title));
    }
    let files = pages.iter().map(|page| (format!("{}.md", page.name), markdown(page)));
    std::iter::once(("README.md".to_owned(), index)).chain(files).collect()
}

fn pages() -> Vec<Page> {
    let worker = Page {
        name: "worker".to_owned(),
        title: "worker.yaml, the daemon itself".to_owned(),
        about:
            "Each setting can also be given in the environment: `ROWSTREAM_ADMIN__LISTEN` is `admin.listen`."
                .to_owned(),
        see: Vec::new(),
        body: Body::Settings(WORKER_FIELDS),
    };
    let frame = Page {
        name: "connector".to_owned(),
        title: "what every connector file has".to_owned(),
        about: "A connector's own settings stand below `config`. Over REST all of them are one flat map of texts, without \
                `config.` in front. `${env:NAME}` and `${file:/path}` stand for secrets."
            .to_owned(),
        see: Vec::new(),
        body: Body::Settings(FRAME_FIELDS),
    };
    let steps = Page {
        name: "transforms".to_owned(),
        title: "what every step under `transforms` has".to_owned(),
        about: "`transforms` of a connector file is a list of steps, which each record goes through in order: a source's before it is \
                written, a sink's before it is delivered. A step's own settings stand beside these. Over REST `transforms` names the steps and \
                `transforms.NAME.SETTING` says what they are, as in Kafka Connect; a `predicate` of Connect's is taken as `when`."
            .to_owned(),
        see: Vec::new(),
        body: Body::Settings(STEP_FIELDS),
    };
    let transforms = rowstream_transforms::plugins().iter().map(|plugin| Page {
        name: format!("transform-{}", plugin.name),
        title: format!("transform `{}`", plugin.name),
        about: format!("`type: {}` in a step under `transforms`.", plugin.name),
        see: Vec::new(),
        body: Body::Settings(plugin.fields),
    });
    let type_pages = type_pages::all();
    let plugins: Vec<Page> = registry::plugins()
        .into_iter()
        .map(|plugin| {
            let kind = match plugin.kind {
                PluginKind::Source => "a source: writes topics",
                PluginKind::Sink => "a sink: reads topics",
            };
            Page {
                name: plugin.name.to_owned(),
                title: format!("connector `{}`, {kind}", plugin.name),
                about: format!("`connector: {}`; these settings stand below `config`.", plugin.name),
                see: type_pages::of_connector(&type_pages, plugin.name),
                body: Body::Settings(plugin.fields),
            }
        })
        .collect();
    let types = type_pages.into_iter().map(|page| Page {
        name: page.name.to_owned(),
        title: page.title(),
        about: page.about(),
        see: page.connectors.iter().map(|connector| (*connector).to_owned()).collect(),
        body: Body::Types(page),
    });
    [worker, frame].into_iter().chain(plugins).chain(types).chain([steps]).chain(transforms).collect()
}

fn markdown(page: &Page) -> String {
    let mut text = format!("# `{}`: {}\n\n{}\n", page.name, page.title, page.about);
    if !page.see.is_empty() {
        let links: Vec<String> = page.see.iter().map(|name| format!("[{name}]({name}.md)")).collect();
        text.push_str(&format!("\nSee also {}.\n", links.join(", ")));
    }
    text.push_str("\nWritten by `rowstream describe --markdown config/reference`; do not edit.\n");
    match &page.body {
        Body::Types(types) => text.push_str(&types.markdown()),
        Body::Settings(fields) => {
            for field in *fields {
                text.push_str(&format!("\n## `{}`\n\n{}\n\n", field.path, field.doc));
                for (what, value) in facts(field) {
                    text.push_str(&format!("- {what}: {value}\n"));
                }
            }
        }
    }
    text
}

fn plain(page: &Page) -> String {
    let mut text = format!("{}\n{}\n", page.title, page.about);
    if !page.see.is_empty() {
        text.push_str(&format!("See also: rowstream describe {}\n", page.see.join(" | ")));
    }
    let fields = match &page.body {
        Body::Types(types) => return text + &types.plain(),
        Body::Settings(fields) => *fields,
    };
    for field in fields {
        let facts: Vec<String> =
            facts(field).iter().map(|(what, value)| format!("{what}: {value}")).collect();
        text.push_str(&format!("\n{}\n    {}\n    {}\n", field.path, facts.join("; "), field.doc));
    }
    text
}

fn facts(field: &FieldDoc) -> Vec<(&'static str, String)> {
    let mut facts = vec![("type", kind(field.kind))];
    match (field.required, field.default) {
        (true, _) => facts.push(("required", "yes".to_owned())),
        (false, Some(default)) => facts.push(("default", format!("`{default}`"))),
        (false, None) => {}
    }
    facts.push(("example", format!("`{}`", field.example)));
    facts
}

fn kind(kind: FieldKind) -> String {
    match kind {
        FieldKind::Text => "text".to_owned(),
        FieldKind::Secret => "text, secret".to_owned(),
        FieldKind::Integer { min, max } => format!("whole number from {min} to {max}"),
        FieldKind::Bool => "`true` or `false`".to_owned(),
        FieldKind::Duration => "duration".to_owned(),
        FieldKind::Size => "size in bytes".to_owned(),
        FieldKind::Choice(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ")
        }
        FieldKind::List => "list of texts".to_owned(),
        FieldKind::SecretList => "list of texts, secret".to_owned(),
        FieldKind::Map => "keys with texts".to_owned(),
        FieldKind::SecretMap => "keys with texts, secret".to_owned(),
    }
}
