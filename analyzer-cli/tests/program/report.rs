// SPDX-License-Identifier: Apache-2.0
//! Is the page complete in itself, and does it tell reasons in a browser?

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use super::{analyze, cluster, network_policy, pod};

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

/// What the page's script reads.
fn data(page: &str) -> Value {
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_has_every_cell() {
    let page = page();
    let links = page.replace("http://www.w3.org/2000/svg", "");
    for word in ["http:", "https:", "src=", "@import", "url(//", "fetch("] {
        assert!(!links.contains(word), "{word}");
    }
    assert!(links.contains("default-src 'none'"));
    let data = data(&page);
    let groups = data["groups"].as_array().unwrap();
    let number = |name: &str| {
        let found = groups.iter().position(|group| group["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {groups:?}"))
    };
    // Each line of cells is stretches of a number and for how many it holds.
    let line = |part: &str, line: usize| -> Vec<Option<usize>> {
        let stretches: Vec<Option<usize>> =
            serde_json::from_value(data[part][line].clone()).unwrap();
        let stretches = stretches.chunks_exact(2);
        let cells: Vec<_> = stretches
            .flat_map(|pair| std::iter::repeat_n(pair[0], pair[1].unwrap()))
            .collect();
        assert_eq!(cells.len(), groups.len(), "{part} {line}");
        cells
    };
    for number in 0..groups.len() {
        let lines = ["answer", "egress", "ingress"].map(|part| line(part, number));
        assert!(lines.iter().flatten().any(Option::is_some), "{number}");
    }
    let (a, b) = (number("t/a"), number("t/b"));
    let cell = &data["answers"][line("answer", b)[a].unwrap()];
    assert_eq!(cell["verdict"], "partial");
    assert_eq!(
        cell["allowed"],
        serde_json::json!([{"protocol": "TCP", "ports": [[8080, 8080]]}])
    );
    let side = &data["sides"][line("ingress", b)[a].unwrap()];
    let decided = side.as_array().unwrap().iter().any(|reason| {
        let reason = &data["reasons"][usize::try_from(reason.as_u64().unwrap()).unwrap()];
        reason["policy"] == "t/in" && reason["rule"] == 0 && reason["at"]["line"].is_u64()
    });
    assert!(decided, "{side}");
    let rules = data["rules"].as_array().unwrap();
    assert!(
        rules.contains(&"NetworkPolicy t/idle ingress[0]".into()),
        "{rules:?}"
    );
}

#[test]
fn a_cell_tells_its_reason_in_a_browser() {
    let Some(dom) = shown(&page(), "#cell=0-1") else {
        return;
    };
    let reason = reason(&dom);
    assert!(reason.contains("t/a → t/b: partial"), "{reason}");
    assert!(reason.contains("tcp/8080"), "{reason}");
    assert!(reason.contains("NetworkPolicy t/in ingress[0]"), "{reason}");
}

/// Every pod is a group of its own, and everybody reaches everybody but one.
fn large_page() -> String {
    let mut manifests = network_policy("in", "{podSelector: {matchLabels: {app: p070}}}");
    for number in 0..100 {
        let name = format!("p{number:03}");
        manifests += &pod(&name, &format!("10.9.0.{number}"));
        manifests += &network_policy(
            &name,
            &format!(
                "{{podSelector: {{matchLabels: {{app: {name}}}}}, policyTypes: [Egress], egress: [{{}}]}}"
            ),
        );
    }
    let answer = analyze(&["graph", "-o", "html"], &cluster(&manifests));
    assert!([0, 3].contains(&answer.code), "{}", answer.err);
    answer.out
}

#[test]
fn a_large_page_is_small_and_turns_to_the_cell_that_is_asked_about() {
    let page = large_page();
    // Cells that are alike are written once: ten thousand of them, and as many arrows, otherwise take
    // more than a megabyte.
    assert!(page.len() < 300_000, "{}", page.len());
    assert!(
        page.contains("By namespace"),
        "workloads have too many arrows"
    );
    let groups = data(&page)["groups"].as_array().unwrap().len();
    // After `t/a` and `t/b`, which nothing tells apart.
    let Some(dom) = shown(&page, "#cell=2-71") else {
        return;
    };
    let text = reason(&dom);
    assert!(text.contains("t/p001 → t/p070: denied"), "{text}");
    assert!(
        text.contains("not allowed </b>everything — NetworkPolicy t/in"),
        "{text}"
    );
    let chosen = dom.split_once("class=\"denied chosen\"").unwrap().1;
    assert!(
        chosen.starts_with("><button aria-label=\"t/p001 to t/p070: denied"),
        "the cell is on the part that is shown"
    );
    assert!(
        dom.contains(&format!("61–{groups} of {groups}")),
        "the second part"
    );
}

/// What the page's script says of a cell.
fn reason(dom: &str) -> String {
    let reason = dom.split_once("id=\"reason\"").unwrap().1;
    reason.split_once("</section>").unwrap().0.to_owned()
}

/// The page as headless Chromium shows it; `None` where there is no Chromium.
fn shown(page: &str, fragment: &str) -> Option<String> {
    let Some(browser) = ["/usr/bin/chromium", "/usr/bin/chromium-browser"]
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        println!("skipped: no chromium");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    fs::write(&file, page).unwrap();
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
        .arg(format!("file://{}{fragment}", file.display()))
        .output()
        .unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
