// SPDX-License-Identifier: Apache-2.0
//! Is the page complete in itself, and does it tell reasons in a browser?

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use super::{analyze, cluster, network_policy};

fn page() -> String {
    let policies = network_policy(
        "in",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: web}]}]}",
    ) + &network_policy("idle", "{podSelector: {matchLabels: {app: none}}, ingress: [{}]}")
        // A name may not be able to end the data.
        + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: c, namespace: t, labels: {app: c}, annotations: {x: \"</script>\"}}\nspec: {containers: []}\n";
    let answer = analyze(&["graph", "-o", "html"], &cluster(&policies));
    assert!([0, 3].contains(&answer.code), "{}", answer.err);
    answer.out
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_has_every_cell() {
    let page = page();
    let links = page.replace("http://www.w3.org/2000/svg", "");
    for word in ["http:", "https:", "src=", "@import", "url(//", "fetch("] {
        assert!(!links.contains(word), "{word}");
    }
    assert!(links.contains("default-src 'none'"));
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let groups = data["groups"].as_array().unwrap();
    let number = |name: &str| {
        let found = groups.iter().position(|group| group["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {groups:?}"))
    };
    let cell = &data["cells"][format!("{} {}", number("t/a"), number("t/b"))];
    assert_eq!(cell["verdict"], "partial");
    assert_eq!(
        cell["allowed"],
        serde_json::json!([{"protocol": "TCP", "ports": [[8080, 8080]]}])
    );
    let decided = cell["reasons"].as_array().unwrap().iter().any(|reason| {
        let reason = &data["reasons"][usize::try_from(reason.as_u64().unwrap()).unwrap()];
        reason["policy"] == "t/in" && reason["rule"] == 0 && reason["at"]["line"].is_u64()
    });
    assert!(decided, "{cell}");
    let rules = data["rules"].as_array().unwrap();
    assert!(
        rules.contains(&"NetworkPolicy t/idle ingress[0]".into()),
        "{rules:?}"
    );
}

/// In headless Chromium, where there is one.
#[test]
fn a_cell_tells_its_reason_in_a_browser() {
    let Some(browser) = ["/usr/bin/chromium", "/usr/bin/chromium-browser"]
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        println!("skipped: no chromium");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    fs::write(&file, page()).unwrap();
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--dump-dom",
        ])
        .arg(format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        ))
        .arg(format!("file://{}#cell=0-1", file.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let reason = dom.split_once("id=\"reason\"").unwrap().1;
    let reason = reason.split_once("</section>").unwrap().0;
    assert!(reason.contains("t/a → t/b: partial"), "{reason}");
    assert!(reason.contains("tcp/8080"), "{reason}");
    assert!(reason.contains("NetworkPolicy t/in ingress[0]"), "{reason}");
}
