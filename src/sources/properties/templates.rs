//! No rewrite cuts an expression of a template language, whatever the format around it.

use std::ops::Range;
use std::path::Path;

use proptest::prelude::*;

use crate::share::rewrite::{Rewrite, apply};
use crate::sources::Document;
use crate::sources::registry::recognise_named;
use crate::sources::templates::refuse_cut;

/// Files that hold an option string in one place: the name, the text before and the text behind.
pub(super) const FORMS: &[(&str, &str, &str)] = &[
    ("/a.yml", "a: \"-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\"\n"),
    ("/a.yml", "a: '-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t'\nb: 1\n"),
    ("/a.yml", "a: -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    ("/a.yml", "a: |\n  qemu -m 1 \\\n    -fsdev ", " \\\n    -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    ("/a.yml", "a: [\"-fsdev\", \"", "\", -device, \"virtio-9p-pci,fsdev=n,mount_tag=t\"]\n"),
    ("/a.json", "{\"a\": \"-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\"}\n"),
    ("/a.json", "{\"a\": [\"-fsdev\", \"", "\", \"-device\", \"virtio-9p-pci,fsdev=n,mount_tag=t\"]}\n"),
    ("/a.erb", "qemu -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    ("/a.sh", "#!/bin/sh\nqemu -fsdev \"", "\" -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    ("/a.sh", "#!/bin/sh\nqm set 1 --args \"-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\"\n"),
    ("/a.sh", "#!/bin/sh\nqm set 1 --args '-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t'\n"),
    ("/a.sh.j2", "X=\"-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\"\nqemu $X\n"),
    ("/etc/default/vm", "X=\"-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\"\n"),
    ("/a.service", "[Service]\nExecStart=/q -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    ("/a.service", "[Service]\nExecStart=/q -fsdev \"", "\" -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    (
        "/a.service",
        "[Service]\nEnvironment=\"X=-fsdev ",
        " -device virtio-9p-pci,fsdev=n,mount_tag=t\"\nExecStart=/q $X\n",
    ),
    ("/qemu-server/1.conf", "name: x\nargs: -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    ("/qemu-server/1.conf", "name: x\nargs: -fsdev '", "' -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    ("/a.py", "x = ['-fsdev', '", "', '-device', 'virtio-9p-pci,fsdev=n,mount_tag=t']\n"),
    ("/a.py", "os.system(\"qemu -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\")\n"),
    ("/a.py", "os.system(f\"qemu -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\")\n"),
    ("/a.tf", "a = [\"-fsdev\", \"", "\", \"-device\", \"virtio-9p-pci,fsdev=n,mount_tag=t\"]\n"),
    ("/a.tf", "a = \"-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\"\n"),
    ("/a.tf", "a = <<EOT\nqemu -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\nEOT\n"),
    ("/a.rb", "a = \"-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\"\n"),
    ("/a.nix", "a = [ \"-fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\" ];\n"),
    ("/Makefile", "run:\n\tqemu -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    (
        "/Dockerfile",
        "CMD [\"qemu\", \"-fsdev\", \"",
        "\", \"-device\", \"virtio-9p-pci,fsdev=n,mount_tag=t\"]\n",
    ),
    ("/Dockerfile", "CMD exec qemu -fsdev ", " -device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    (
        "/supervisord.conf",
        "[program:vm]\ncommand=qemu -fsdev ",
        " -device virtio-9p-pci,fsdev=n,mount_tag=t\n",
    ),
    ("/args", "-fsdev ", "\n-device virtio-9p-pci,fsdev=n,mount_tag=t\n"),
    (
        "/a.xml",
        "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name><qemu:commandline><qemu:arg \
         value='-fsdev'/><qemu:arg value=\"",
        "\"/><qemu:arg value='-device'/><qemu:arg value='virtio-9p-pci,fsdev=n,mount_tag=t'/></qemu:commandline></domain>\n",
    ),
];

/// Expressions of template languages, none of which the format around them needs to know.
pub(super) const EXPRESSIONS: &[&str] = &[
    "{{ sock }}",
    "{{sock}}",
    "{{ a.b | default('x, y') }}",
    "{{- .Values.sock -}}",
    "${{ secrets.SOCK }}",
    "{% if ro %},readonly=on{% endif %}",
    "{# note #}",
    "<%= @sock %>",
    "<% if a %>x<% end %>",
    "${join(\"/\", [a, b])}",
    "${sock}",
    "${a:-${b}}",
    "$(cat /run/a b)",
    "$sock",
    "#{sock 1}",
    "%(sock)s",
    "%s",
    "{}",
    "%{ if ro },readonly=on%{ endif }",
    "@SOCK@",
];

/// Option strings; the mark is where the expression goes.
pub(super) const OPTIONS: &[&str] = &[
    "proxy,id=n,socket=/run/a@@",
    "proxy,id=n,socket=@@",
    "proxy,id=n,socket=@@,readonly=on",
    "proxy,id=n,socket=/run/@@.sock,writeout=immediate",
    "proxy,id=n,socket=/run/a.sock,readonly=@@",
    "proxy,id=n,socket=/run/a.sock,@@",
    "proxy,id=n,socket=/run/a.sock@@,readonly=on",
    "@@,id=n,socket=/run/a.sock",
    "proxy,id=n@@,socket=/run/a.sock",
];

/// Rewrites a text, and says whether that was done. What is not the share's own must be as it was.
fn rewritten(form: (&str, &str, &str), option: &str, expression: &str) -> bool {
    let (name, before, behind) = form;
    let at = before.len() + option.find("@@").unwrap();
    let option = option.replace("@@", expression);
    let text = format!("{before}{option}{behind}");
    let hidden = at..at + expression.len();
    let own = before.len()..before.len() + option.len();
    let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
    let Some(format) = recognise_named(&document) else { return false };
    let export = |name: &str| (name.as_bytes().to_vec(), "/srv/n".into());
    let exports = vec![export("n"), export("t"), export(expression)];
    let how = Rewrite { exports, in_place_args: true, ..Rewrite::default() };
    let Ok(edits) = format.rewrite(&document, &how) else { return false };
    if refuse_cut(&document, &edits.edits).is_err() {
        return false;
    }
    for edit in &edits.edits {
        let Range { start, end } = edit.span.clone();
        assert!(own.start <= start && end <= own.end, "{text}: {edit:?}");
        let apart = end <= hidden.start || start >= hidden.end;
        assert!(apart || (start <= hidden.start && end >= hidden.end), "{text}: {edit:?}");
    }
    let new = String::from_utf8(apply(text.as_bytes(), &edits.edits)).unwrap();
    assert!(new.starts_with(before) && new.ends_with(behind), "{new}");
    !edits.edits.is_empty()
}

#[test]
fn no_expression_is_cut() {
    let mut done = 0;
    for form in FORMS {
        for option in OPTIONS {
            done += EXPRESSIONS.iter().filter(|expression| rewritten(*form, option, expression)).count();
        }
        assert!(rewritten(*form, "proxy,id=n,socket=/run/a@@", ""), "{form:?}");
    }
    assert!(done > FORMS.len(), "{done}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_made_up_expression_is_cut(
        form in 0..FORMS.len(),
        option in 0..OPTIONS.len(),
        ends in 0..6_usize,
        inside in "[a-z ]{0,4}[a-z ,|.()'\\[\\]=-]{0,12}",
    ) {
        let (open, close) = [("{{ ", " }}"), ("<%= ", " %>"), ("{% if ", " %}"), ("${{ ", " }}"), ("{{- ", " -}}"), ("{# ", " #}")][ends];
        // A quote that the format around it needs would end its text.
        let inside = if FORMS[form].1.contains('\'') { inside.replace('\'', "") } else { inside };
        rewritten(FORMS[form], OPTIONS[option], &format!("{open}{inside}{close}"));
    }
}
