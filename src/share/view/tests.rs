use super::*;

const W: Access = Access::Writable;
const R: Access = Access::ReadOnly;

fn bind(source: &str, access: Access) -> Effect {
    Effect::Bind(Some(source.into()), access)
}

fn seen(host: bool, layers: &[(&str, Effect)], export: &str) -> String {
    let mut view = View::new(By::Unit, host, Place::default());
    for (target, effect) in layers {
        let (target, effect) = (PathBuf::from(target), effect.clone());
        view.layers.push(Layer {
            said: target.display().to_string(),
            target,
            effect,
            place: Place::default(),
        });
    }
    let seen = view.see(Path::new(export), false);
    let troubles = seen.troubles.iter().map(|trouble| match trouble {
        Trouble::Hidden(layer) => format!("hidden by {}", layer.said),
        Trouble::Absent => "absent".into(),
        Trouble::ReadOnly(layer) => format!("locked by {}", layer.said),
        Trouble::PartHidden(layer) => format!("part hidden by {}", layer.said),
        Trouble::PartReadOnly(layer) => format!("part locked by {}", layer.said),
    });
    format!("{} {}", seen.inside.display(), troubles.collect::<Vec<_>>().join(", ")).trim_end().to_owned()
}

#[test]
fn layers_decide_by_depth() {
    let (ro, rw) = (Effect::Access(R), Effect::Access(W));
    for (host, layers, expected) in [
        (true, vec![], "/srv/x"),
        (true, vec![("/", ro.clone())], "/srv/x locked by /"),
        (true, vec![("/", ro.clone()), ("/srv", rw.clone())], "/srv/x"),
        (true, vec![("/srv", rw.clone()), ("/srv/x", ro.clone())], "/srv/x locked by /srv/x"),
        (true, vec![("/srv/x", rw.clone()), ("/srv/x", ro.clone())], "/srv/x locked by /srv/x"),
        (true, vec![("/srv", Effect::Empty)], "/srv/x hidden by /srv"),
        (true, vec![("/srv", Effect::Empty), ("/srv/x", rw.clone())], "/srv/x hidden by /srv"),
        (true, vec![("/srv", Effect::Empty), ("/srv/x", bind("/srv/x", W))], "/srv/x"),
        // What is inaccessible hides all below it.
        (true, vec![("/srv", Effect::Hidden), ("/srv/x", bind("/srv/x", W))], "/srv/x hidden by /srv"),
        (true, vec![("/srv", Effect::Empty), ("/mnt", bind("/srv", W))], "/mnt/x"),
        (true, vec![("/srv/x/tmp", Effect::Empty)], "/srv/x part hidden by /srv/x/tmp"),
        (true, vec![("/srv/x/a", ro.clone())], "/srv/x part locked by /srv/x/a"),
        (true, vec![("/srv/xy", ro.clone()), ("/sr", Effect::Hidden)], "/srv/x"),
        (true, vec![("/srv/x", bind("/other", W))], "/srv/x hidden by /srv/x"),
        (false, vec![], "/srv/x absent"),
        (false, vec![("/data", bind("/srv", W))], "/data/x"),
        (false, vec![("/data", bind("/srv/x", R))], "/data locked by /data"),
        (false, vec![("/a", bind("/srv/x", R)), ("/b", bind("/srv", W))], "/b/x"),
        (false, vec![("/data", bind("/srv/x", W)), ("/data", Effect::Hidden)], "/srv/x absent"),
        (false, vec![("/", bind("/srv", W))], "/x"),
        (false, vec![("/data", Effect::Bind(None, W))], "/srv/x absent"),
    ] {
        assert_eq!(seen(host, &layers, "/srv/x"), expected, "{host} {layers:?}");
    }
}
