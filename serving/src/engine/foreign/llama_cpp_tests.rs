//! llama.cpp's own server: it answers, it reads a prompt from where it departs from the one before, and it stops when nobody
//! reads any more.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use edit_model::{CodeTokenizer, EditModel, Family, GgufWeights, ModelConfig, Network};
use events::Window;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::engine::Decoding;
use crate::testing::WAIT;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../edit-model/tests/fixtures/qwen2.5-coder");
const POSITIONS: usize = 8192;
/// Far more than is wanted.
const MOST_TOKENS: usize = 4096;

/// A model with random weights that writes letters, digits and marks, and never comes to an end.
fn talker() -> EditModel {
    let bytes = std::fs::read(Path::new(FIXTURE).join("tokenizer.json")).unwrap();
    let (tokenizer, _) = CodeTokenizer::adopt(&bytes, 1 << 17).unwrap();
    let special = tokenizer.special();
    let mut config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
    config = config.of_family(Family::Qwen2);
    config.written_vocab_size = Some(tokenizer.written_size());
    config.hidden_size = 64;
    config.intermediate_size = 96;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.tie_word_embeddings = false;
    config.max_position_embeddings = POSITIONS;
    let network = Network::new(config.clone()).unwrap();
    let mut weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(11));
    for tensor in network.tensors() {
        if tensor.name == "lm_head.weight" {
            for (token, row) in (0_u32..).zip(weights[tensor.range].chunks_exact_mut(config.hidden_size)) {
                let is_mark = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
                let factor = if tokenizer.token_bytes(token).is_some_and(is_mark) { 20.0 } else { 0.0 };
                row.iter_mut().for_each(|weight| *weight *= factor);
            }
        }
    }
    EditModel::new(config, weights, tokenizer).unwrap()
}

/// The server; it ends with this value.
struct LlamaServer {
    address: String,
    process: Child,
    _input: ChildStdin,
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl LlamaServer {
    fn start(folder: &Path) -> Self {
        let path = folder.join("model.gguf");
        talker().export_gguf(&path, "talker", GgufWeights::F32).unwrap();
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/llama_server.py")).arg(&path);
        command.env("PYTHONPATH", test_servers::llama_cpp()).env("HOME", folder);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.strip_prefix("listening at ")?.to_owned())).unwrap();
        // What it says later has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Self { address, process, _input: input }
    }

    /// One of its figures.
    async fn figure(&self, name: &str) -> u64 {
        let text = reqwest::get(format!("{}/metrics", self.address)).await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("llamacpp:{name} ")));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).trim().parse().unwrap()
    }

    /// How often it decoded, once nothing is asked of it.
    async fn decoded_at_rest(&self) -> u64 {
        let rest = async {
            while self.figure("requests_processing").await > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, rest).await.expect("llama.cpp works on");
        self.figure("n_decode_total").await
    }
}

fn context(text: &str) -> EditContext {
    EditContext {
        window: Window { start_byte: 0, first_line: 0, text: text.to_owned() },
        cursor_byte: text.len() as u64,
        ..warm_context()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_cpp_answers_and_stops() {
    if !test_servers::full_wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = LlamaServer::start(folder.path());
    let minute = 60_000;
    let config = EngineConfig {
        urls: server.address.clone(),
        max_answer_tokens: MOST_TOKENS,
        first_byte_timeout_ms: minute,
        idle_timeout_ms: minute,
        deadline_ms: minute,
        // Nobody else asks meanwhile.
        health_interval_ms: 60 * minute,
        ..EngineConfig::default()
    };
    let engine = ForeignEngine::new("llama", &config).unwrap();
    let engines = BTreeMap::from([("llama".to_owned(), Arc::clone(&engine))]);
    let [name, talker, dialect] = ["llama", "talker", "qwen2.5-coder-fim"].map(str::to_owned);
    let description = Description { engine: name, model: talker, dialect };
    let model = ForeignModel::load(&engines, description, Path::new(FIXTURE)).await.unwrap();
    model.prove().await.unwrap();
    let address = &engine.addresses[0];

    // From key to key most of the prompt is known.
    let mut text: String = (0..20).map(|number| format!("let name_{number} = users.get({number});\n")).collect();
    let mut last = (0, 0);
    for key in "let".chars() {
        text.push(key);
        let question = model.question(&TenantId::default(), &context(&text), 16).unwrap();
        let written = engine.ask(address, question, |_| false).await.unwrap();
        assert_eq!((written.finish(), written.text().is_empty()), (Some(Finish::Length), false));
        assert!(written.log_p().unwrap() < 0.0);
        last = written.prompt_tokens();
    }
    assert!(last.1 > last.0 / 2, "{} of {} tokens were known", last.1, last.0);

    // Whoever has enough closes, and it stops within a few tokens; every token of this model is at least a byte.
    let before = server.decoded_at_rest().await;
    let question = model.question(&TenantId::default(), &context("let a = "), MOST_TOKENS).unwrap();
    let written = engine.ask(address, question, |text| text.len() >= 200).await.unwrap();
    let decoded = server.decoded_at_rest().await - before;
    assert!(decoded <= written.text().len() as u64 + 100, "{decoded} decoded, {} bytes read", written.text().len());

    // The same when the client leaves.
    let threads = DecodePool::start(1, 1).unwrap();
    let (sender, mut receiver) = mpsc::channel(5);
    let cancel = CancellationToken::new();
    let decoding = Decoding { threshold: 0.5, force_edit: false, max_actions: 4, draft_tokens: 0, batch: 1 };
    let asked = Arc::new(context("let b = "));
    let ask = Ask { tenant: TenantId::default(), context: asked, decoding, explores: false };
    let before = server.decoded_at_rest().await;
    Arc::clone(&model).begin(&threads, ask, sender, cancel.clone()).unwrap();
    let begun = async { while server.figure("n_decode_total").await < before + 10 {} };
    tokio::time::timeout(WAIT, begun).await.unwrap();
    cancel.cancel();
    let ended = tokio::time::timeout(WAIT, receiver.recv()).await.unwrap();
    assert!(matches!(ended, Some(Progress::Done(Ok(completion))) if completion.cancelled));
    let decoded = server.decoded_at_rest().await - before;
    assert!(decoded < MOST_TOKENS as u64 / 2, "{decoded} decoded");
}
