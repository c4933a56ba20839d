use serde_json::json;

use super::*;

fn data() -> serde_json::Value {
    json!({
        "Id": "0123456789abcdef",
        "Name": "/web",
        "Args": ["-g", "daemon off;"],
        "State": {"Status": "running", "Running": true, "ExitCode": 0, "Pid": 4711, "Health": null},
        "Config": {"Labels": {"a.b": "1", "owner": "me"}, "Env": null, "Volumes": null},
        "Mounts": [{"Source": "/a", "RW": true}, {"Source": "/b", "RW": false}],
        "NetworkSettings": {
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": null},
            "Networks": {"bridge": {"IPAddress": "10.88.0.2"}}
        },
        "SizeRw": 12.5,
    })
}

fn render(template: &str) -> Result<String, String> {
    let template = Template::parse(template).map_err(|error| error.to_string())?;
    template.render_serializable(&data()).map_err(|error| error.to_string())
}

#[test]
fn what_docker_users_type() {
    for (template, expected) in [
        ("{{.Id}}", "0123456789abcdef"),
        ("{{.State.Status}}", "running"),
        ("{{ .State.Pid }} {{.State.Running}} {{.SizeRw}}", "4711 true 12.5"),
        ("{{range .Mounts}}{{.Source}};{{end}}", "/a;/b;"),
        ("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}} {{end}}", "0=/a 1=/b "),
        ("{{range .Mounts}}{{if .RW}}rw{{else}}ro{{end}} {{end}}", "rw ro "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}},{{end}}", "a.b=1,owner=me,"),
        (r#"{{index .Config.Labels "a.b"}}"#, "1"),
        (r#"[{{index .Config.Labels "none"}}]"#, "[]"),
        ("{{.Config.Labels.none}}", "<no value>"),
        ("{{json .State}}", r#"{"ExitCode":0,"Health":null,"Pid":4711,"Running":true,"Status":"running"}"#),
        ("{{json .Args}}", r#"["-g","daemon off;"]"#),
        ("{{.Args}}", "[-g daemon off;]"),
        (r#"{{join .Args " "}}"#, "-g daemon off;"),
        (r#"{{join (split "a,b" ",") "+"}}"#, "a+b"),
        ("{{.State.Status | upper | printf \"%-9s|\"}}", "RUNNING  |"),
        (
            r#"{{printf "%s %d %v %q" .Name .State.Pid .State.Running .Id}}"#,
            r#"/web 4711 true "0123456789abcdef""#,
        ),
        ("{{len .Mounts}} {{len .Id}}", "2 16"),
        ("{{println .Name}}", "/web\n"),
        ("{{if eq .State.Status \"running\"}}up{{else}}down{{end}}", "up"),
        ("{{if and .State.Running (ne .State.ExitCode 1)}}ok{{end}}", "ok"),
        ("{{if or (not .State.Running) (eq .State.ExitCode 0)}}ok{{end}}", "ok"),
        ("{{if .State.Health}}h{{else if .State.Running}}r{{end}}", "r"),
        ("{{with .State}}{{.Status}}{{end}}", "running"),
        (
            "{{title .State.Status}} {{lower \"ABC\"}} {{pad .Name 1 2}}| {{truncate .Id 4}}",
            "Running abc  /web  | 0123",
        ),
        (r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#, "8080"),
        (
            r#"{{range $p, $conf := .NetworkSettings.Ports}}{{$p}} -> {{(index $conf 0).HostPort}}{{break}}{{end}}"#,
            "443/tcp -> ",
        ),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.88.0.2"),
        ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "10.88.0.2"),
        ("{{slice .Id 0 12}}", "0123456789ab"),
        ("a\\tb\\nc", "a\tb\nc"),
        (r#"{{"a\tb"}}"#, "a\tb"),
        ("{{/* nothing */}}{{- .Name -}}  x", "/webx"),
        (r#"{{define "T"}}<{{.Status}}>{{end}}{{template "T" .State}}"#, "<running>"),
        ("{{$x := .State}}{{$x.Status}} {{$.Name}}", "running /web"),
        ("no action", "no action"),
        ("", ""),
    ] {
        if template.contains("break") {
            // 443/tcp has no binding: its first one does not exist, in Go as here.
            assert!(render(template).is_err(), "{template}");
            continue;
        }
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn mistakes_name_the_place_and_the_field() {
    for (template, parts) in [
        ("{{.Nope}}", &["1:3", "\"Nope\"", "Config"][..]),
        ("{{.State.Nope}}", &["1:3", "\"Nope\"", "\"State\"", "ExitCode"]),
        ("abc {{.Name}}\n{{range .Mounts}}{{.Sauce}}{{end}}", &["2:20", "\"Sauce\"", "Source"]),
        ("{{$.Nope}}", &["1:3", "\"Nope\""]),
        ("{{(index .Mounts 0).Sauce}}", &["\"Sauce\"", "Source"]),
        ("{{.Name.First}}", &["1:3", "\"Name\"", "\"First\""]),
        ("{{.Name \"x\"}}", &["1:3", ".Name", "argument"]),
        ("{{index .Mounts 7}}", &["7"]),
        ("{{join .Name \",\"}}", &["join", "list"]),
        ("{{json}}", &["json", "one argument"]),
        ("{{range .State.Pid2}}{{end}}", &["\"Pid2\""]),
    ] {
        let error = render(template).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{template}: {part} is not in: {error}");
        }
    }
}

#[test]
fn what_is_no_template_is_refused_before_any_output() {
    for (template, part) in [
        ("{{.Id", "1:"),
        ("{{if .Id}}x", "1:"),
        ("{{end}}", "1:3"),
        ("{{foo .Id}}", "1:3: there is no function \"foo\""),
        ("{{.Id | nosuch}}", "1:9: there is no function \"nosuch\""),
        ("{{\"abc}}", "1:"),
        ("{{template \"T\"}}{{range}}{{end}}", "1:"),
    ] {
        let error = Template::parse(template).unwrap_err().to_string();
        assert!(error.contains(part), "{template}: {part} is not in: {error}");
        assert!(error.contains(&format!("{template:?}")), "{error}");
    }
}

/// A template comes from the command line or a script: nothing that it holds may end the process or run on.
#[test]
fn no_template_panics_or_hangs() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    let pieces = [
        "{{",
        "}}",
        "{{-",
        "-}}",
        ".",
        ".State",
        ".Mounts",
        ".Nope",
        "$",
        "$x",
        ":=",
        "range ",
        "if ",
        "else",
        "end",
        "with ",
        "json ",
        "index ",
        "printf ",
        "\"%d\"",
        "\"",
        "`",
        "(",
        ")",
        "|",
        "1",
        "-1",
        "9999999999999999999",
        " ",
        "\\t",
        "\n",
        "\u{e9}",
        "and ",
        "len ",
        "slice ",
        "/*",
        "*/",
        "define \"T\"",
        "template \"T\" ",
        "pad ",
        "truncate ",
        "call ",
        "nil",
        "true",
    ];
    for _ in 0..20_000 {
        let text: String = (0..next(14)).map(|_| pieces[next(pieces.len())]).collect();
        let text = if next(2) == 0 { text } else { format!("{{{{{text}}}}}") };
        let _ = render(&text);
    }
    assert!(render("{{define \"T\"}}{{template \"T\"}}{{end}}{{template \"T\"}}").is_err());
    assert!(render("{{pad .Name 999999999 1}}").is_err());
    assert!(render("{{range 9223372036854775807}}{{end}}").is_err());
}
