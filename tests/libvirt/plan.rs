//! `migrate plan`: its commands, run as they are printed, move a guest; its way back takes all of it back.

use std::fs;

use serde_json::Value;

use crate::instance::Instance;
use crate::journey::{Block, DOMAIN, Machine, START_VM};

/// A plan, and how planning ended.
fn plan(machine: &Machine, libvirt: &Instance, words: &str) -> (Value, i32) {
    let text =
        format!("virtfs-proxy-helper migrate plan --format json {words} > plan.json || echo $? > status\n");
    let _ = fs::remove_file(machine.path("work/status"));
    machine.run(&Block::of(&text), &libvirt.uri()).unwrap_or_else(|error| panic!("{error}"));
    let status =
        fs::read_to_string(machine.path("work/status")).map_or(0, |text| text.trim().parse().unwrap());
    (serde_json::from_str(&machine.read("work/plan.json")).expect("a plan"), status)
}

/// Commands as lines for a shell.
fn lines(value: &Value) -> Vec<String> {
    let quoted = |word: &Value| format!("'{}'", word.as_str().expect("a word").replace('\'', r"'\''"));
    let line = |command: &Value| {
        let words = command["words"].as_array().expect("words");
        if command["by_hand"] == true {
            return format!("# {}", words[0].as_str().expect("a text"));
        }
        let words = words.iter().map(quoted).collect::<Vec<_>>().join(" ");
        match command["output"].as_str() {
            Some(output) => format!("(umask 077; {words} >'{output}')"),
            None => words,
        }
    };
    value.as_array().expect("a list").iter().map(line).collect()
}

/// The commands of the only move, and those that take it back.
fn commands(plan: &Value) -> (Vec<String>, Vec<String>) {
    let moves = plan["moves"].as_array().expect("moves");
    assert_eq!(moves.len(), 1, "{plan:#}");
    let steps = moves[0]["steps"].as_array().expect("steps");
    let run = steps.iter().flat_map(|step| lines(&step["run"])).collect();
    let undo = steps.iter().rev().flat_map(|step| lines(&step["undo"])).collect();
    (run, undo)
}

fn follow(machine: &Machine, libvirt: &Instance, commands: &[String]) {
    let text = commands.join("\n") + "\n";
    machine.run(&Block::of(&text), &libvirt.uri()).unwrap_or_else(|error| panic!("{error}\n{text}"));
}

/// Nothing is open. What other processes of the machine can't be seen is not the plan's affair.
fn assert_ready(plan: &Value, status: i32) {
    assert_eq!(plan["moves"][0]["questions"], serde_json::json!([]), "{plan:#}");
    assert!(status == 0 || status == 4 && plan["unread"] != serde_json::json!([]), "{status}: {plan:#}");
}

#[test]
fn the_steps_move_a_script_and_the_way_back_takes_all_back() {
    crate::program::need_root();
    let libvirt = Instance::start();
    let machine = Machine::new(&libvirt);
    // The copy that an earlier change left is not the one to go back to.
    fs::write(machine.path("bin/start-vm.orig"), "an older file\n").unwrap();
    let (plan, status) = plan(&machine, &libvirt, "/usr/local/bin/start-vm");
    assert_ready(&plan, status);
    let guest = &plan["moves"][0]["guests"][0];
    assert_eq!(guest["owner"], "vm:2001");
    assert_eq!(guest["shares"][0]["export"], "/srv/share");
    assert_eq!(machine.read("bin/start-vm"), START_VM, "planning changes nothing");
    let (run, undo) = commands(&plan);
    follow(&machine, &libvirt, &run);
    assert!(machine.read("bin/start-vm").contains("local,id=share,path=/srv/share"));
    assert!(!machine.is_link("srv/share/link"));
    // Files that are converted already, and a configuration that is not.
    fs::write(machine.path("bin/start-vm"), START_VM).unwrap();
    let (half, status) = self::plan(&machine, &libvirt, "/usr/local/bin/start-vm");
    assert_ready(&half, status);
    let (rest, _) = commands(&half);
    assert!(rest.iter().all(|command| !command.contains("'convert'")), "{rest:?}");
    follow(&machine, &libvirt, &undo);
    assert_eq!(machine.read("bin/start-vm"), START_VM);
    assert!(machine.is_link("srv/share/link"));
}

#[test]
fn the_steps_move_a_domain_with_its_snapshot() {
    crate::program::need_root();
    let libvirt = Instance::start();
    let machine = Machine::new(&libvirt);
    for (file, text) in [
        ("etc/libvirt/qemu/vm.xml", DOMAIN.to_owned()),
        ("etc/libvirt/snapshot/vm/before.xml", libvirt.virsh(["snapshot-dumpxml", "vm", "before"])),
    ] {
        fs::create_dir_all(machine.path(file).parent().unwrap()).unwrap();
        fs::write(machine.path(file), text).unwrap();
    }
    let (open, status) = plan(&machine, &libvirt, "/etc/libvirt/qemu");
    assert_eq!(status, 3);
    let question = &open["moves"][0]["questions"][0];
    assert_eq!(question["option"], "--export share=PATH", "{open:#}");
    assert_eq!(open["moves"][0]["guests"][0]["manager"], "libvirt");

    let (plan, status) = plan(&machine, &libvirt, "--export share=/srv/share /etc/libvirt/qemu");
    assert_ready(&plan, status);
    let (run, undo) = commands(&plan);
    follow(&machine, &libvirt, &run);
    let domain = libvirt.virsh(["dumpxml", "--inactive", "vm"]);
    assert!(domain.contains("<source dir='/srv/share'/>") && !domain.contains("proxy"), "{domain}");
    assert!(!machine.is_link("srv/share/link"));
    follow(&machine, &libvirt, &undo);
    let domain = libvirt.virsh(["dumpxml", "--inactive", "vm"]);
    assert!(domain.contains("proxy,id=share,socket=/run/vm.sock"), "{domain}");
    assert!(machine.is_link("srv/share/link"));
}

#[test]
fn what_is_not_known_is_asked_with_the_option_that_answers() {
    crate::program::need_root();
    let libvirt = Instance::start();
    let machine = Machine::new(&libvirt);
    let script = "qemu-system-x86_64 -fsdev proxy,id=a,socket=/run/a.sock -device virtio-9p-pci,fsdev=a,mount_tag=data\n";
    fs::write(machine.path("bin/other.sh"), script).unwrap();
    let (open, status) = plan(&machine, &libvirt, "/usr/local/bin/other.sh");
    assert_eq!(status, 3);
    let questions = open["moves"][0]["questions"].as_array().unwrap();
    let options: Vec<_> = questions.iter().map(|one| one["option"].as_str().unwrap()).collect();
    assert_eq!(options, ["--export data=PATH", "--owner /usr/local/bin/other.sh=USER[:GROUP]"]);
    // A user that this host does not have is asked for, too.
    fs::write(machine.path("bin/other.sh"), script.replace(" -fsdev", " -runas nosuch -fsdev")).unwrap();
    let (open, status) = plan(&machine, &libvirt, "--export data=/srv/share /usr/local/bin/other.sh");
    let question = &open["moves"][0]["questions"][0];
    assert_eq!((status, &question["option"]), (3, &"--owner /usr/local/bin/other.sh=USER[:GROUP]".into()));
    assert!(
        question["text"].as_str().unwrap().contains("its QEMU runs as 'nosuch' by its configuration"),
        "{question}"
    );
    let answers = "--owner /usr/local/bin/other.sh=vm --export data=/srv/share /usr/local/bin/other.sh";
    let (plan, status) = plan(&machine, &libvirt, answers);
    assert_ready(&plan, status);
    let refused = "virtfs-proxy-helper migrate plan --guest nobody /usr/local/bin/other.sh 2>&1 | grep 'the guests are: /usr/local/bin/other.sh'\n";
    machine.run(&Block::of(refused), &libvirt.uri()).unwrap_or_else(|error| panic!("{error}"));
}
