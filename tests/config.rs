//! `repositories.yml`, from the outside: what is taken, and how everything else is reported.

use std::path::Path;

use entrepot::config::{self, Environment, Loaded, Problem};

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    config::load_text("repositories.yml", text, Path::new("etc"), &environment(variables))
}

fn reports(text: &str) -> String {
    let Err(problems) = load_with(text, &[]) else {
        panic!("no problems")
    };
    let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
    all.join("\n\n")
}

#[test]
fn ten_mistakes_are_ten_reports_each_at_its_line_and_column() {
    let text = "\
server:
  listen: 127.0.0.1:99999
  drain: soon
storge: { path: data }
repositories:
  v2: { type: local }
  images: { type: local, allow_delte: true }
  hub: { type: remote, url: 'ftp://example.com' }
  ecr: { type: remote, url: 'https://ecr.example.com', tag_ttl: [5m] }
  docker: { type: virtual, members: [images, nobody], push_to: hub }
  circle: { type: virtual, members: [circle] }
default: nothing
";
    insta::assert_snapshot!(reports(text), @r#"
repositories.yml:2:11: `127.0.0.1:99999` is not an address to listen on
      listen: 127.0.0.1:99999
              ^
hint: write IP address and port: `127.0.0.1:5000`, `0.0.0.0:5000`, `[::]:5000`

repositories.yml:3:10: `soon` is not a time
      drain: soon
             ^
hint: a whole number with a unit, ms, s, m, h or d: `500ms`, `30s`, `10m`, `24h`, `7d`

repositories.yml:4:1: unknown key `storge`
    storge: { path: data }
    ^
hint: did you mean `storage`?

repositories.yml:6:3: `v2` cannot be a repository key: it has a meaning of its own in image paths
      v2: { type: local }
      ^

repositories.yml:7:26: unknown key `allow_delte`
      images: { type: local, allow_delte: true }
                             ^
hint: did you mean `allow_delete`?

repositories.yml:8:29: this is not the URL of a registry
      hub: { type: remote, url: 'ftp://example.com' }
                                ^
hint: it begins with `https://` and a host: `https://registry.example.com`

repositories.yml:9:65: expected a time such as `30s`, found a list
      ecr: { type: remote, url: 'https://ecr.example.com', tag_ttl: [5m] }
                                                                    ^

repositories.yml:10:46: there is no repository `nobody`
      docker: { type: virtual, members: [images, nobody], push_to: hub }
                                                 ^
hint: the keys are `circle`, `docker`, `ecr`, `hub`, `images`, `v2`

repositories.yml:10:64: `hub` is a remote repository: nothing can be pushed to it
      docker: { type: virtual, members: [images, nobody], push_to: hub }
                                                                   ^
hint: name a local member

repositories.yml:11:38: `circle` is a member of itself
      circle: { type: virtual, members: [circle] }
                                         ^

repositories.yml:12:10: there is no repository `nothing`
    default: nothing
             ^
hint: the keys are `circle`, `docker`, `ecr`, `hub`, `images`, `v2`
"#);
}
