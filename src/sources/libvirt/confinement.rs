//! What confines the QEMU that libvirt starts: the unit of libvirt's daemon, whose mounts QEMU has; libvirt's own `/dev`; and
//! the labels of its security drivers.
//!
//! Sources: libvirt's qemu.conf (`namespaces`, `security_driver`), <https://libvirt.org/formatdomain.html> ("Security label"),
//! <https://libvirt.org/drvqemu.html> ("POSIX users/groups", "SELinux", "AppArmor").

use std::path::Path;

use roxmltree::Node;

use super::arguments::{Domain, Holder, elements};
use super::file::File;
use crate::data::labels;
use crate::report::finding::{self, Finding};
use crate::share::local::path_bytes;
use crate::share::rewrite::Moved;
use crate::share::{Place, Share};
use crate::sources::format::Beside;
use crate::sources::systemd;
use crate::text::{escape, escape_path, shell_word};

/// The services that start QEMU.
const DAEMONS: &[&str] = &["virtqemud.service", "libvirtd.service"];

/// libvirt's settings of QEMU.
const QEMU_CONF: &str = "/etc/libvirt/qemu.conf";

/// File systems below /dev that libvirt keeps in a guest's own /dev.
const KEPT_IN_DEV: &[&str] = &["/dev/shm", "/dev/hugepages", "/dev/mqueue", "/dev/pts"];

/// What is in the way of a share of `domain`. `native`: libvirt knows of the directory, by its `<filesystem>`. `beside`: the
/// files of this machine; `None` where the domain may be another's.
pub(super) fn findings(
    file: &File,
    domain: &Domain,
    moved: &Moved,
    native: bool,
    beside: Option<&dyn Beside>,
) -> Vec<Finding> {
    let mut all = labelled(file, domain, moved);
    all.extend(beside.into_iter().flat_map(|beside| on_this_host(Some(domain), moved, native, beside)));
    all
}

/// What is in the way of a share that a domain of this machine is to have.
pub(in crate::sources) fn of_host(moved: &Moved, beside: &dyn Beside) -> Vec<Finding> {
    on_this_host(None, moved, true, beside)
}

fn on_this_host(domain: Option<&Domain>, moved: &Moved, native: bool, beside: &dyn Beside) -> Vec<Finding> {
    let mut all = Vec::new();
    for name in DAEMONS {
        all.extend(by_daemon(name, moved, beside));
    }
    let conf = beside.file(Path::new(QEMU_CONF)).ok().flatten().unwrap_or_default();
    let conf = String::from_utf8_lossy(&conf).into_owned();
    all.extend(by_namespace(&conf, moved));
    all.extend(by_modules(&conf, domain, moved, native));
    all
}

/// What the unit of libvirt's daemon hides or makes read-only.
fn by_daemon(name: &str, moved: &Moved, beside: &dyn Beside) -> Vec<Finding> {
    let Some(view) = systemd::view_of_daemon(name, beside) else { return Vec::new() };
    let looked = view.look(&moved.share, &moved.export, moved.share.readonly);
    let mut all = looked.findings;
    if let Some(inside) = looked.inside {
        let message = format!("{name} shows QEMU the directory at {} alone", escape_path(&inside));
        let remedy = format!("write {} in its place in the new configuration", escape_path(&inside));
        all.push(about(&moved.share, &finding::EXPORT_HIDDEN, view.place.clone(), &message, remedy));
    }
    all
}

/// An export in /dev, of which QEMU has its own.
fn by_namespace(conf: &str, moved: &Moved) -> Option<Finding> {
    let said = setting(conf, "namespaces");
    let is_private = said.as_deref().is_none_or(|value| value.contains("mount"));
    let is_kept = KEPT_IN_DEV.iter().any(|path| moved.export.starts_with(path));
    (is_private && moved.export.starts_with("/dev") && !is_kept).then(|| {
        let place = Place { file: said.map(|_| QEMU_CONF.into()), ..Place::default() };
        let message = "libvirt gives QEMU a /dev of its own, in which the directory is not";
        let remedy = format!("move the directory out of /dev, or write `namespaces = [ ]` into {QEMU_CONF}");
        about(&moved.share, &finding::EXPORT_HIDDEN, place, message, remedy)
    })
}

/// What the domain's own labels mean for the export.
fn labelled(file: &File, domain: &Domain, moved: &Moved) -> Vec<Finding> {
    let own = |model: &str| {
        let mut labels = labels_of(domain, model);
        labels.find(|node| node.attribute("type") == Some("static"))
    };
    let finding = |node: Node, message: String, remedy: String| {
        let line = Some(file.line(node.range().start));
        let place = Place { line, guest: domain.name.clone(), ..Place::default() };
        about(&moved.share, &finding::QEMU_CONFINED, place, &message, remedy)
    };
    let label = |node: Node| {
        let text = elements(node, "label").next().and_then(|label| label.text());
        escape(text.unwrap_or("LABEL").trim().as_bytes()).into_owned()
    };
    let path = escape_path(&moved.export);
    let mut all = Vec::new();
    all.extend(own("selinux").map(|node| {
        let message = format!("the domain's <seclabel> runs QEMU in the SELinux context {}", label(node));
        finding(node, message, format!("label {path} with a type that this context may manage"))
    }));
    all.extend(own("apparmor").map(|node| {
        let message = format!(
            "the domain's <seclabel> runs QEMU under the AppArmor profile {}, which libvirt does not extend",
            label(node)
        );
        finding(node, message, format!("let the profile allow the directory: {}", rule(&moved.export)))
    }));
    all
}

/// What the host's security modules mean, where libvirt makes the label itself.
fn by_modules(conf: &str, domain: Option<&Domain>, moved: &Moved, native: bool) -> Vec<Finding> {
    let driver = setting(conf, "security_driver").unwrap_or_default();
    let dynamic = |model: &str| {
        let by_driver = driver.is_empty() || driver.contains(model);
        let mut labels = domain.into_iter().flat_map(|domain| labels_of(domain, model));
        by_driver && labels.all(|node| !matches!(node.attribute("type"), Some("static" | "none")))
    };
    let guest = || Place { guest: moved.share.place.guest.clone(), ..Place::default() };
    let mut all = Vec::new();
    if !native && labels::apparmor() && dynamic("apparmor") {
        let message = "AppArmor is in force here, and libvirt's profile of the guest does not know of a directory in QEMU's own arguments";
        let remedy =
            format!("add to /etc/apparmor.d/local/abstractions/libvirt-qemu: {}", rule(&moved.export));
        all.push(about(&moved.share, &finding::QEMU_CONFINED, guest(), message, remedy));
    }
    if let Some(kind) = labels::unfit_selinux_type(&moved.export).filter(|_| dynamic("selinux")) {
        let message = format!(
            "SELinux is enforcing here, the directory's type is {}, and libvirt does not label directories of shares",
            escape(kind.as_bytes())
        );
        all.push(about(&moved.share, &finding::QEMU_CONFINED, guest(), &message, relabel(&moved.export)));
    }
    all
}

/// The commands that give a directory the type which guests may use.
pub(in crate::sources) fn relabel(export: &Path) -> String {
    let word = escape(&shell_word(path_bytes(export))).into_owned();
    let pattern = [path_bytes(export), b"(/.*)?"].concat();
    let pattern = escape(&shell_word(&pattern)).into_owned();
    format!("semanage fcontext -a -t svirt_image_t {pattern} && restorecon -R {word}")
}

/// AppArmor's rules for a directory.
fn rule(export: &Path) -> String {
    let path = escape_path(export);
    format!("\"{path}/\" r, \"{path}/**\" rwlk,")
}

/// The `<seclabel>` elements for a security driver: those that name it, and one without a model, which is for all.
fn labels_of<'a, 'input>(
    domain: &Domain<'a, 'input>,
    model: &str,
) -> impl Iterator<Item = Node<'a, 'input>> + use<'a, 'input> {
    let model = model.to_owned();
    // What libvirt notes of a running guest does not last.
    let lasting = domain.holder != Holder::Status;
    let of_model = move |node: &Node| lasting && node.attribute("model").is_none_or(|own| own == model);
    elements(domain.node, "seclabel").filter(of_model)
}

/// The value of a setting of qemu.conf, over several lines, too.
fn setting(conf: &str, key: &str) -> Option<String> {
    let lines: Vec<&str> = conf.lines().collect();
    let is_it = |line: &str| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let at = lines.iter().rposition(|line| is_it(line))?;
    let rest = lines.get(at..)?;
    let list = rest.first()?.contains('[') && !rest.first()?.contains(']');
    let end =
        if list { rest.iter().position(|line| line.contains(']')).unwrap_or(rest.len() - 1) } else { 0 };
    let value = rest.get(..=end)?.join(" ");
    Some(value.split_once('=')?.1.trim().trim_matches('"').to_owned())
}

fn about(
    share: &Share,
    kind: &'static finding::Kind,
    place: Place,
    message: &str,
    remedy: String,
) -> Finding {
    let message = format!("the share {}: {message}", share.title());
    Finding { kind, place, message, remedy: Some(remedy), subject: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_qemu_conf_are_read() {
        for (conf, expected) in [
            ("", None),
            ("#namespaces = [ ]\n", None),
            ("namespaces = [ ]\n", Some("[ ]")),
            ("namespaces = [\n  \"mount\"\n]\nuser = \"x\"\n", Some("[   \"mount\" ]")),
            ("namespaces = [ \"mount\" ]\nnamespaces = []\n", Some("[]")),
            ("namespaces_of = []\n", None),
            ("namespaces = [", Some("[")),
        ] {
            assert_eq!(setting(conf, "namespaces").as_deref(), expected, "{conf}");
        }
        assert_eq!(setting("security_driver = \"none\"\n", "security_driver").as_deref(), Some("none"));
    }
}
