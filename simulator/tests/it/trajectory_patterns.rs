//! What each pattern takes back, in small repositories where it can be said in advance.

use crate::trajectories::{MIT, all, open, verify, write};
use simulator::trajectory::language::Parsers;
use simulator::trajectory::{BuildSettings, Built, Compiler, Pattern};

/// The trajectories of one pattern in one file, which may be of any language.
fn found(pattern: Pattern, name: &str, code: &str) -> Vec<Built> {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("r/{name}");
    write(folder.path(), &[MIT, (path.as_str(), code)]);
    let (_, found) = all(&open(folder.path()), &BuildSettings { patterns: vec![pattern], ..BuildSettings::default() });
    let mut parsers = Parsers::default();
    found.iter().for_each(|built| verify(built, &mut parsers));
    found
}

/// What the only one of them says, its start state, and how many steps it has.
fn only(pattern: Pattern, name: &str, code: &str) -> (String, String, usize) {
    let mut found = found(pattern, name, code);
    assert_eq!(found.len(), 1, "{name}");
    let built = found.remove(0);
    let start = built.trajectory.start(&built.texts).unwrap().remove(0);
    (built.trajectory.detail, start, built.trajectory.steps.len())
}

#[test]
fn a_promised_method_comes_before_those_that_keep_the_promise() {
    for (name, code, promiser) in [
        (
            "a.rs",
            "trait Shape {\n    /// Of the surface.\n    fn area_of(&self) -> u32;\n\n    fn sides(&self) -> u32;\n}\n\n\
             struct Square(u32);\n\nimpl Shape for Square {\n    fn area_of(&self) -> u32 {\n        self.0\n    }\n\n    \
             fn sides(&self) -> u32 {\n        4\n    }\n}\n",
            "Shape",
        ),
        (
            "a.py",
            "class Shape:\n    def area_of(self):\n        raise NotImplementedError\n\n    def sides(self):\n        return 0\n\n\n\
             class Square(Shape):\n    def area_of(self):\n        return 1\n\n    def sides(self):\n        return 4\n",
            "Shape",
        ),
        (
            "a.ts",
            "interface Shape {\n  area_of(): number;\n  sides(): number;\n}\n\nclass Square implements Shape {\n  area_of(): number \
             {\n    return 1;\n  }\n\n  sides(): number {\n    return 4;\n  }\n}\n",
            "Shape",
        ),
        (
            "a.go",
            "package p\n\ntype Shape interface {\n\tarea_of() int\n\tsides() int\n}\n\ntype Square struct{}\n\nfunc (s Square) \
             area_of() int {\n\treturn 1\n}\n\nfunc (s Square) sides() int {\n\treturn 4\n}\n",
            "Shape",
        ),
        (
            "A.java",
            "interface Shape {\n    int area_of();\n    int sides();\n}\n\nclass Square implements Shape {\n    @Override\n    \
             public int area_of() {\n        return 1;\n    }\n\n    @Override\n    public int sides() {\n        return 4;\n    \
             }\n}\n",
            "Shape",
        ),
    ] {
        let found = found(Pattern::OverrideGeneration, name, code);
        let details: Vec<&str> = found.iter().map(|built| built.trajectory.detail.as_str()).collect();
        let area = format!("{promiser} gets area_of, and one type with it");
        let sides = format!("{promiser} gets sides, and one type with it");
        assert!(details.contains(&area.as_str()) && details.contains(&sides.as_str()), "{name}: {details:?}");
        assert_eq!(details.len(), 2, "{name}");
        let built = found.iter().find(|built| built.trajectory.detail == area).unwrap();
        let start = built.trajectory.start(&built.texts).unwrap().remove(0);
        assert!(!start.contains("area_of") && !start.contains("surface"), "{name}: {start}");
        assert_eq!(start.matches("sides").count(), 2, "{name}");
        assert_eq!(start.matches("@Override").count(), usize::from(name == "A.java"), "{name}");
        assert_eq!(built.trajectory.steps.len(), 2, "{name}");
        assert!(built.trajectory.start_health.is_whole(), "{name}: {start}");
    }
}

#[test]
fn an_extracted_function_stood_in_the_place_of_its_calls() {
    let rust = "fn area(side: u32) -> u32 {\n    side * side\n}\n\nfn both(a: u32, b: u32) -> u32 {\n    area(a) + area(b)\n}\n";
    let (detail, start, steps) = only(Pattern::ExtractFunction, "a.rs", rust);
    assert_eq!(detail, "area is extracted from 2 places");
    assert_eq!(start, "fn both(a: u32, b: u32) -> u32 {\n    (a * a) + (b * b)\n}\n");
    assert_eq!(steps, 2);
    let python = "class Box:\n    def label(self):\n        return self.title + self.suffix\n\n    def show(self):\n        \
                  print(self.label())\n";
    let (detail, start, _) = only(Pattern::ExtractFunction, "a.py", python);
    assert_eq!(detail, "label is extracted from one place");
    assert_eq!(start, "class Box:\n    def show(self):\n        print(self.title + self.suffix)\n");
    // What is called on something else, suspends, or is passed what may not be computed twice, stays a function.
    for (name, code) in [
        ("a.py", python.replace("self.label()", "other.label()")),
        ("a.py", python.replace("self.title +", "(yield) +")),
        ("a.rs", rust.replace("area(a)", "area(f(a))")),
        ("a.rs", rust.replace("side * side", "f(side)?")),
    ] {
        assert!(found(Pattern::ExtractFunction, name, &code).is_empty(), "{code}");
    }
}

#[test]
fn a_type_is_refined_one_function_after_the_other() {
    let code = "def load(rows: list[int], name):\n    use(rows)\n\n\ndef save(name, rows: list[int]):\n    use(rows)\n";
    let (detail, start, steps) = only(Pattern::TypeRefinement, "a.py", code);
    assert_eq!(detail, "list becomes list[int] where rows is passed");
    assert_eq!((start, steps), (code.replace("list[int]", "list"), 2));
    // One function alone tells nobody what comes next.
    assert!(
        found(Pattern::TypeRefinement, "a.py", &code.replace("def save(name, rows", "def save(name, lines")).is_empty()
    );
    let go = "package p\n\nfunc load(s *Store) {\n\tuse(s)\n}\n\nfunc save(s *Store) {\n\tuse(s)\n}\n";
    let (_, start, _) = only(Pattern::TypeRefinement, "a.go", go);
    assert_eq!(start, go.replace("*Store", "any"));
}

#[test]
fn a_name_is_imported_after_it_is_used() {
    let rust = "use std::collections::HashMap;\n\npub fn first() -> HashMap<u8, u8> {\n    HashMap::new()\n}\n";
    let (detail, start, steps) = only(Pattern::AutoImport, "a.rs", rust);
    assert_eq!(detail, "HashMap is imported");
    let full = "\npub fn first() -> std::collections::HashMap<u8, u8> {\n    std::collections::HashMap::new()\n}\n";
    assert_eq!((start.as_str(), steps), (full, 3));
    let python = "from shapes.flat import Square\n\n\ndef first():\n    return Square(Square.SIDES)\n";
    let (_, start, steps) = only(Pattern::AutoImport, "a.py", python);
    let full = "import shapes.flat\n\n\ndef first():\n    return shapes.flat.Square(shapes.flat.Square.SIDES)\n";
    assert_eq!((start.as_str(), steps), (full, 2));
    let java = "import java.util.List;\n\nclass A {\n    List<String> all;\n\n    List<String> some;\n}\n";
    let (_, start, steps) = only(Pattern::AutoImport, "A.java", java);
    let full = "\nclass A {\n    java.util.List<String> all;\n\n    java.util.List<String> some;\n}\n";
    assert_eq!((start.as_str(), steps), (full, 3));
    let script = "import { first, second } from \"./parts\";\n\nfunction play() {\n  start(1);\n  first(2);\n  return second(3);\n}\n";
    for name in ["a.ts", "a.js", "a.tsx"] {
        let (detail, start, steps) = only(Pattern::AutoImport, name, script);
        assert_eq!((detail.as_str(), steps), ("first is imported", 2), "{name}");
        let expected =
            "import { second } from \"./parts\";\n\nfunction play() {\n  start(1);\n  return second(3);\n}\n";
        assert_eq!(start, expected, "{name}");
    }
    let go = "package p\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\nfunc play() int {\n\tfmt.Println(1)\n\treturn os.Getpid()\n}\n";
    let (detail, start, _) = only(Pattern::AutoImport, "a.go", go);
    assert_eq!(detail, "fmt is imported");
    assert_eq!(start, "package p\n\nimport (\n\t\"os\"\n)\n\nfunc play() int {\n\treturn os.Getpid()\n}\n");
}

#[test]
fn slips_are_what_a_real_compiler_reports() {
    let folder = tempfile::tempdir().unwrap();
    let rust = "use missing::Crate;\n\npub fn open_store(path: &str) -> Crate {\n    find(path)\n}\n\npub fn both() {\n    let one = \
                open_store(\"a\");\n    drop(one);\n}\n";
    let python =
        "import missing\n\n\ndef open_shop(path):\n    if path:\n        return missing.find(path)\n    return None\n";
    write(folder.path(), &[MIT, ("r/a.rs", rust), ("r/a.py", python)]);
    let compilers: Vec<_> = [Compiler::Rustc, Compiler::Python].into_iter().map(|one| one.find().unwrap()).collect();
    let patterns = vec![Pattern::DiagnosticFix];
    let settings = BuildSettings { patterns, per_file: 20, compilers, threads: 1, ..BuildSettings::default() };
    let (_, found) = all(&open(folder.path()), &settings);
    let mut parsers = Parsers::default();
    found.iter().for_each(|built| verify(built, &mut parsers));
    let told = |name: &str| {
        let of_file = found.iter().filter(|built| built.files[0].path == name);
        let steps = of_file.flat_map(|built| &built.trajectory.steps);
        steps.filter_map(|step| step.diagnostic.clone()).collect::<Vec<_>>()
    };
    let (rust, python) = (told("a.rs"), told("a.py"));
    // The name, and tokens that are not there; nothing about the package that is missing either way.
    let misspelled = rust.iter().find(|one| one.code.as_deref() == Some("E0425")).unwrap();
    assert!(misspelled.line == 8 && misspelled.message.contains("cannot find function"), "{misspelled:?}");
    assert!(
        rust.iter().any(|one| one.code.is_none()) && rust.iter().all(|one| !one.message.contains("unresolved import")),
        "{rust:?}"
    );
    assert!(rust.iter().all(|one| one.compiler.starts_with("rustc ")));
    assert!(python.iter().any(|one| one.line == 4) && python.iter().any(|one| one.line == 5), "{python:?}");
    assert!(python.iter().all(|one| one.compiler.starts_with("Python 3")));
    // Nobody asked, nothing invented.
    assert!(all(&open(folder.path()), &BuildSettings { compilers: Vec::new(), ..settings }).1.is_empty());
}
