//! The page in a real browser: Chromium without a screen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{audit, fleet, hostile, printed, share};

/// The page as Chromium has it after its script has run, and what is due within five seconds.
fn browse(page: &Path, address: &str) -> String {
    chromium(page, address, &["--virtual-time-budget=5000"])
}

/// The page as Chromium has it when it is loaded.
fn chromium(page: &Path, address: &str, options: &[&str]) -> String {
    let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .any(|directory| directory.join(name).exists())
    });
    let chromium = chromium.expect("chromium is missing: apt-get install chromium");
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(options)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("--dump-dom")
        .arg(format!("file://{}{address}", page.display()))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The first cells of a table's rows that are in the document, in the page's order.
fn rows(dom: &str, table: &str) -> Vec<String> {
    let body =
        dom.split(&format!("<table id=\"{table}\">")).nth(1).unwrap_or_else(|| panic!("no {table}: {dom}"));
    let body = body.split("<tbody>").nth(1).unwrap().split("</tbody>").next().unwrap();
    let rows = body.split("<tr ").skip(1);
    rows.map(|row| row.split("<td>").nth(1).unwrap().split("</td>").next().unwrap().to_owned()).collect()
}

/// What a script in the page noted about it.
fn noted(dom: &str, name: &str) -> String {
    let rest = dom.split(&format!("data-{name}=\"")).nth(1).unwrap_or_else(|| panic!("no {name}: {dom}"));
    rest.split('"').next().unwrap().to_owned()
}

fn page(directory: &Path, words: &[&str], extra: &str) -> PathBuf {
    let mut all = vec!["--format", "html"];
    all.extend(words);
    let html = printed(directory, &all, 3);
    for outside in ["src=", "href=", "url(", "@import", "http://", "https://"] {
        assert!(!html.contains(outside), "the page wants {outside}");
    }
    let path = directory.join("page.html");
    fs::write(&path, html.replace("</body>", &format!("{extra}</body>"))).unwrap();
    path
}

#[test]
fn the_page_sorts_and_filters_in_a_browser() {
    let place = fleet();
    let all = page(place.path(), &["audits"], "");
    let dom = browse(&all, "");
    assert_eq!(
        rows(&dom, "hosts"),
        ["far", "db1.example.com", "web1", "old", "mail"],
        "by what wants attention"
    );
    assert!(dom.contains("3 of 3 shares, 5 of 5 hosts"), "{dom}");
    assert!(dom.contains("<code>virtfs-proxy-helper migrate check /srv/shop</code>"), "{dom}");
    assert!(
        dom.contains(
            "Hosts: 1 clean by a doubtful audit, 2 not fully read or failed, 2 with proxy setups of 5"
        ),
        "{dom}"
    );

    // By the address, as somebody was sent it.
    let dom = browse(&all, "#text=web1+shop&sort=shares.2.down");
    assert_eq!(rows(&dom, "shares"), ["web1"]);
    let dom = browse(&all, "#status=failed&sort=hosts.99.up");
    assert_eq!(rows(&dom, "hosts"), ["far"]);
    let tile = "<script>document.querySelector('.tiles .failed button').click()</script>";
    assert_eq!(rows(&browse(&page(place.path(), &["audits"], tile), ""), "hosts"), ["far"]);

    // By hand: a click sorts, another turns it round, typing filters.
    let hands = "<script>{
        const head = document.querySelector('#hosts th button');
        head.click(); head.click();
        const field = document.getElementById('text');
        field.value = 'example'; field.dispatchEvent(new Event('input'));
        field.value = 'a'; field.dispatchEvent(new Event('input'));
        document.body.dataset.sorted = document.querySelector('#hosts th').getAttribute('aria-sort');
        document.body.dataset.address = location.hash;
    }</script>";
    let dom = browse(&page(place.path(), &["audits"], hands), "");
    assert_eq!(rows(&dom, "hosts"), ["web1", "old", "mail", "far", "db1.example.com"], "{dom}");
    assert_eq!(noted(&dom, "sorted"), "descending");
    let address = noted(&dom, "address");
    assert!(address.contains("sort=hosts.0.down") && address.contains("text=a"), "{address}");
}

#[test]
fn a_hostile_name_stays_text_in_a_browser() {
    let place = hostile();
    let dom = browse(&page(place.path(), &["."], ""), "#text=%3Cscript%3Edocument.title");
    assert!(dom.contains("<title>Proxy shares</title>"), "{dom}");
    assert!(!dom.contains("<script>document"), "{dom}");
    assert_eq!(rows(&dom, "shares"), ["a&lt;b&gt;"]);
}

/// Every landmark has a name, and every table is in a region that the keyboard can scroll.
#[test]
fn the_page_has_regions() {
    let place = fleet();
    let dom = browse(&page(place.path(), &["--since", "audits", "audits"], "<script>
        const titled = (element) => document.getElementById(element.getAttribute('aria-labelledby'))?.textContent;
        const main = document.querySelector('main');
        document.body.dataset.sections = [...main.querySelectorAll('section')].map(titled).join();
        document.body.dataset.regions =
            [...main.querySelectorAll('[role=region][tabindex=\"0\"] > table')].map((table) => titled(table.parentElement)).join();
        document.body.dataset.bars = [...main.querySelectorAll('.bar')].map((bar) => bar.getAttribute('aria-label')).join('; ');
        document.body.dataset.time = document.querySelector('header time').dateTime;
    </script>"), "");
    assert_eq!(noted(&dom, "sections"), "State,Shares,Hosts,Findings");
    assert_eq!(noted(&dom, "regions"), "Shares,Hosts,Findings");
    assert!(
        noted(&dom, "bars").ends_with("; Shares of the earlier round: 3 still there of 3"),
        "{}",
        noted(&dom, "bars")
    );
    assert!(noted(&dom, "time").ends_with('Z'));
}

/// A page of paper has every row and every column, upright and across: the style for paper, applied to a window as wide as a sheet.
#[test]
fn paper_has_every_row_and_every_column() {
    let place = tempfile::tempdir().unwrap();
    let long = |number: usize| {
        let mut share = share(
            &format!("guest-with-a-long-name-{number}"),
            Some(&format!("/srv/exports/{}/x", "y".repeat(90))),
            true,
        );
        share["notes"] = json!(["proxy-share", "export-unknown"]);
        share
    };
    let shares: Vec<_> = (0..150).map(long).collect();
    let audit = audit(&shares, 0).to_string();
    for round in ["before", "now"] {
        fs::create_dir(place.path().join(round)).unwrap();
        fs::write(place.path().join(round).join("a-host-with-a-long-name.example.com.json"), &audit).unwrap();
    }
    let script = "<script>{
        const sheet = document.styleSheets[0];
        for (const rule of [...sheet.cssRules]) {
            if (rule.conditionText !== 'print') continue;
            for (const inner of [...rule.cssRules]) sheet.insertRule(inner.cssText, sheet.cssRules.length);
        }
        const before = document.querySelectorAll('#shares tbody tr').length;
        dispatchEvent(new Event('beforeprint'));
        const printed = document.querySelectorAll('#shares tbody tr').length;
        const fits = [190, 277].map((millimetres) => {
            document.body.style.width = `${millimetres}mm`;
            const edge = document.body.getBoundingClientRect().right + 1;
            const heads = [...document.querySelectorAll('th')];
            return heads.filter((head) => head.getBoundingClientRect().right > edge).map((head) => head.textContent).join() || 'all';
        });
        const shown = [...document.querySelectorAll('#shares th')].map((head) => head.textContent).join();
        dispatchEvent(new Event('afterprint'));
        const after = document.querySelectorAll('#shares tbody tr').length;
        Object.assign(document.body.dataset, { rows: [before, printed, after].join(), fits: fits.join(), shown });
    }</script>";
    let dom = browse(&page(place.path(), &["--since", "before", "now"], script), "");
    assert_eq!(noted(&dom, "rows"), "100,150,100");
    assert_eq!(noted(&dom, "fits"), "all,all");
    let shown = noted(&dom, "shown");
    for column in ["Kind", "QEMU", "Severity", "Status", "Change"] {
        assert!(shown.contains(column), "{shown}");
    }
}

/// Without its script the page holds every row, too.
#[test]
fn the_page_is_complete_without_its_script() {
    let place = large(300);
    let html = printed(place.path(), &["--format", "html", "audits"], 3);
    for number in 0..300 {
        let host = format!("<td>node{number}.example.com</td>");
        assert!(html.matches(&host).count() >= 2, "{host}");
    }
}

/// This many hosts, each with a share, and every second with another.
fn large(hosts: usize) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let audits = place.path().join("audits");
    fs::create_dir(&audits).unwrap();
    for number in 0..hosts {
        let one = share(&format!("guest{number}"), Some("/srv/export"), number % 3 == 0);
        let two = share(&format!("other{number}"), None, true);
        let shares: &[Value] = if number % 2 == 0 { &[one, two] } else { &[one] };
        fs::write(audits.join(format!("node{number}.example.com.json")), audit(shares, 0).to_string())
            .unwrap();
    }
    place
}

/// However many hosts there are, a part of the rows is in the document, and a key or a click builds no more than that. The
/// times are printed (`--nocapture`), and decide nothing: the machine may be busy.
#[test]
fn ten_thousand_hosts_are_shown_in_parts() {
    let place = large(10_000);
    let script = "<script>{
        const tables = ['shares', 'hosts'].map((id) => document.getElementById(id));
        const count = () => tables.map((table) => table.tBodies[0].rows.length);
        const built = [], parts = [], spent = [];
        const record = (act) => {
            const observer = new MutationObserver(() => {});
            tables.forEach((table) => observer.observe(table, { childList: true, subtree: true }));
            const start = performance.now();
            act();
            document.body.offsetHeight;
            spent.push(Math.round(performance.now() - start));
            const added = observer.takeRecords().flatMap((change) => [...change.addedNodes]);
            built.push(added.filter((node) => node.nodeName === 'TR').length);
            parts.push(Math.max(...count()));
            observer.disconnect();
        };
        const field = document.getElementById('text');
        const type = (words) => () => { field.value = words; field.dispatchEvent(new Event('input')); };
        const note = {};
        note.begin = count().join();
        ['n', 'no', 'nod', 'node', 'node9', 'node99', 'node9', ''].forEach((words) => record(type(words)));
        document.querySelectorAll('#shares th button, #hosts th button').forEach((button) => record(() => button.click()));
        note.first = tables[0].tBodies[0].rows[0].cells[0].textContent;
        type('node9999.')();
        note.found = document.getElementById('shown').textContent;
        type('')();
        document.querySelectorAll('#hosts th button')[0].click();
        const next = tables[1].parentElement.nextElementSibling.lastElementChild;
        next.click();
        note.second = tables[1].tBodies[0].rows[0].cells[0].textContent;
        note.built = Math.max(...built);
        note.parts = Math.max(...parts);
        note.keys = spent.slice(0, 8).join();
        note.clicks = spent.slice(8).join();
        note.loaded = Math.round(performance.now());
        Object.assign(document.body.dataset, note);
    }</script>";
    // The budget's clock would not be the machine's.
    let dom = chromium(&page(place.path(), &["audits"], script), "", &[]);
    assert_eq!(noted(&dom, "begin"), "100,100");
    assert_eq!(noted(&dom, "parts"), "100");
    let built: usize = noted(&dom, "built").parse().unwrap();
    assert!((1..=200).contains(&built), "{built} rows were built at once");
    assert_eq!(noted(&dom, "found"), "1 of 15000 shares, 1 of 10000 hosts");
    assert_eq!(noted(&dom, "second"), "node100.example.com", "by number, not by letter");
    println!(
        "10,000 hosts: the script ended {} ms after the start; ms for each key: {}; for each click: {}",
        noted(&dom, "loaded"),
        noted(&dom, "keys"),
        noted(&dom, "clicks")
    );
}
