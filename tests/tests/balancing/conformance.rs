//! `CONFORMANCE.md` names stories: they exist.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};

/// `target::module::story` in backquotes, in the order of the text.
fn named(text: &str) -> impl Iterator<Item = [&str; 3]> {
    text.split('`').skip(1).step_by(2).filter_map(|span| {
        let mut parts = span.split("::");
        let story = [parts.next()?, parts.next()?, parts.next()?];
        let plain = |part: &str| {
            part.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        (parts.next().is_none() && story.into_iter().all(plain)).then_some(story)
    })
}

#[test]
fn every_story_that_the_page_names_is_a_test() -> Result<()> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(tests.join("CONFORMANCE.md"))?;
    let mut count = 0;
    for [target, module, story] in named(&page) {
        let file = match target {
            "weir" => tests
                .join("../agent/tests")
                .join(module)
                .with_extension("rs"),
            _ => tests
                .join("tests")
                .join(target)
                .join(module)
                .with_extension("rs"),
        };
        let text = fs::read_to_string(&file)
            .with_context(|| format!("{target}::{module}::{story}: no {}", file.display()))?;
        let test = text
            .split("#[test]")
            .skip(1)
            .any(|rest| rest.trim_start().starts_with(&format!("fn {story}(")));
        ensure!(test, "{} has no test {story}", file.display());
        count += 1;
    }
    ensure!(count > 60, "the page names only {count} stories");
    Ok(())
}

/// And every story of this program has a place on the page.
#[test]
fn every_story_here_is_on_the_page() -> Result<()> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(tests.join("CONFORMANCE.md"))?;
    let named: BTreeSet<_> = named(&page).collect();
    for entry in fs::read_dir(tests.join("tests/balancing"))? {
        let path = entry?.path();
        let module = path
            .file_stem()
            .and_then(|name| name.to_str())
            .context("no name")?;
        if module == "conformance" {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        for rest in text.split("#[test]\n").skip(1) {
            let name = rest
                .trim_start()
                .strip_prefix("fn ")
                .context("no function")?;
            let name = name.split('(').next().context("no name")?;
            ensure!(
                named.contains(&["balancing", module, name]),
                "balancing::{module}::{name} is not in CONFORMANCE.md"
            );
        }
    }
    Ok(())
}
