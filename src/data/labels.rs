//! The host's security modules: whether SELinux or AppArmor is in force, and what an export's label says.

use std::fs;
use std::path::Path;

/// Types of files that SELinux lets libvirt's guests use.
const SELINUX_TYPES: &[&str] =
    &["svirt_image_t", "svirt_home_t", "virt_content_t", "container_file_t", "nfs_t", "fusefs_t"];

/// Where SELinux is enforcing: the type of `export`, if guests may not use files of it.
pub(crate) fn unfit_selinux_type(export: &Path) -> Option<String> {
    let enforcing = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1");
    if !enforcing {
        return None;
    }
    let mut value = [0; 512];
    let length = rustix::fs::getxattr(export, "security.selinux", value.as_mut_slice()).unwrap_or(0);
    let label = String::from_utf8_lossy(value.get(..length).unwrap_or_default()).into_owned();
    unfit(label.trim_end_matches('\0'))
}

/// Whether AppArmor is in force.
pub(crate) fn apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// The type in a label, if guests may not use files of it.
fn unfit(label: &str) -> Option<String> {
    let kind = label.split(':').nth(2).unwrap_or("unknown");
    (!SELINUX_TYPES.contains(&kind)).then(|| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_guests_may_not_use_are_named() {
        for (label, expected) in [
            ("system_u:object_r:svirt_image_t:s0", None),
            ("system_u:object_r:container_file_t:s0:c1,c2", None),
            ("system_u:object_r:var_t:s0", Some("var_t")),
            ("unconfined_u:object_r:default_t:s0", Some("default_t")),
            ("", Some("unknown")),
        ] {
            assert_eq!(unfit(label).as_deref(), expected, "{label}");
        }
    }
}
