"""Recipe and Suite: what a run is, as data. The sentence under each field is its documentation.

`loading.py` reads YAML files into these types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: The tasks that llama-tasks brings along.
TASKS = ("translate", "summarize", "qa", "classify", "text")

#: The least value of numbers that have one; every number must be finite.
LEAST = {
    "data.split_similarity": 0.05, "data.shuffle_buffer": 1, "data.num_workers": 0, "data.max_row_mb": 1,
    "data.max_compression_ratio": 1, "data.max_uncompressed_gb": 0, "data.max_train_samples": 1,
    "data.max_validation_samples": 1, "data.max_test_samples": 1, "prompt.max_length": 8, "prompt.num_fewshot": 0,
    "prompt.length": 1, "train.num_train_epochs": 0, "train.learning_rate": 0, "train.loraplus_lr_ratio": 0,
    "train.label_smoothing_factor": 0, "train.neftune_noise_alpha": 0, "train.fgm_epsilon": 0,
    "distill.temperature": 0.01, "distill.alpha": 0,
    "train.warmup_steps": 0,
    "train.weight_decay": 0, "train.adam_beta2": 0, "train.max_grad_norm": 0, "train.tokens_per_batch": 1,
    "train.gradient_accumulation_steps": 1, "train.eval_times": 1, "train.early_stopping_patience": 1,
    "train.save_steps": 1, "train.logging_steps": 1,
    "train.seed": 0, "eval.max_new_tokens": 1, "eval.min_new_tokens": 0, "eval.num_beams": 1, "eval.top_k": 0,
    "eval.no_repeat_ngram_size": 0, "eval.tokens_per_batch": 1, "eval.n_resamples": 100, "eval.seed": 0,
}  # fmt: skip


@dataclass(frozen=True)
class BaseConfig:
    """The base model."""

    model: str = "embedded"
    """Hub id, folder, or `embedded` (the small base that ships with llama-tasks)."""
    revision: str | None = None
    """Commit, tag or branch of a Hub model; the run records the commit it resolved to."""
    config: dict[str, Any] | None = None
    """LLaMA configuration of a new model with random weights (pre-training); `model` then names its tokenizer."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the frozen base: float32, bfloat16, float16; `auto`: bfloat16 on a GPU that computes it (Ampere and later),
    else float32."""
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"
    """`nf4`: 4-bit NormalFloat with double quantisation (QLoRA), `fp4`: 4-bit floats likewise, `int8`: LLM.int8(); by
    bitsandbytes, on GPU and CPU."""
    quantization_config: dict[str, Any] | None = None
    """Instead of `quantization`: fields of BitsAndBytesConfig, `load_in_4bit` or `load_in_8bit` among them. What is left out is
    as in transformers (fp4, no double quantisation)."""
    attn_implementation: str = "sdpa"
    """transformers' name of the attention implementation."""

    @property
    def is_quantized(self) -> bool:
        """Whether weights are held in 8 or 4 bits."""
        return self.quantization != "none" or self.quantization_config is not None


@dataclass(frozen=True)
class DataConfig:
    """Where rows come from."""

    train: list[str] = field(default_factory=lambda: ["embedded"])
    """`embedded`, files, globs, folders, fsspec URLs or Hub ids; docs/data.md lists the formats."""
    weights: list[float] | None = None
    """One for each item of `train`: the shares in which they are mixed; left out: all rows, one after the other."""
    validation: list[str] | None = None
    """As `train`; left out: the source's own validation split, else carved from the training rows."""
    test: list[str] | None = None
    """As `train`; left out: the source's own test split, else carved from the training rows."""
    name: str | None = None
    """Configuration of a Hub dataset."""
    revision: str | None = None
    """Commit of a Hub dataset."""
    columns: dict[str, str] = field(default_factory=dict)
    """The task's field: the column of your data that holds it."""
    constants: dict[str, str] = field(default_factory=dict)
    """Fields that are the same in every row, such as `lang: zh`."""
    labels: list[str] | None = None
    """The label set of a classification; left out: the labels of the training rows, sorted."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """`skip` sets aside the rows that cannot be read or used, counts them and says where and why; `stop` lists them all."""
    free_answers: bool = False
    """Question answering: answers need not stand in the context word for word."""
    csv_quotes: bool = True
    """Quotation marks enclose fields of .csv and .tsv; `false`: they are plain characters."""
    split_similarity: float = 0.8
    """Rows whose texts are at least so similar (Jaccard of character n-grams) stay on one side of a carved split."""
    streaming: bool = False
    """Read the training rows as a stream, for data beyond memory."""
    shuffle_buffer: int = 10000
    """Rows of a stream that are shuffled together."""
    num_workers: int = 0
    """Processes that turn the rows of a stream into tokens beside the training; their number changes no batch."""
    cache: bool = True
    """Keep the tokens of large training splits for the next run (docs/packing.md)."""
    max_row_mb: int = 8
    """The longest line or JSON object that is read, in MiB."""
    max_compression_ratio: int = 200
    """A compressed file that unpacks to more than so many times its size is refused (beyond 64 MiB)."""
    max_uncompressed_gb: float = 64.0
    """The most that a compressed file may unpack to, in GiB."""
    max_train_samples: int | None = None
    """Use a seeded sample of the training rows."""
    max_validation_samples: int | None = None
    """Rows of the validation split used while training."""
    max_test_samples: int | None = None
    """Use a seeded sample of the test rows."""


@dataclass(frozen=True)
class CleanConfig:
    """What is changed in rows, or left out, before they become examples; nothing unless asked."""

    splits: list[Literal["train", "validation", "test"]] = field(default_factory=lambda: ["train"])  # type: ignore[arg-type]
    """Splits that are cleaned; rows that are scored stay as they are unless you name their split."""
    html_unescape: bool = False
    """`&amp;` becomes `&`."""
    unicode: Literal["none", "NFC", "NFKC"] = "none"
    """Unicode normalisation; NFKC also folds full-width letters and ligatures."""
    control_characters: Literal["keep", "remove", "error"] = "keep"
    """Controls but tab and line ends, byte-order marks in a text, directional overrides."""
    redact: list[Literal["email", "phone", "url", "ip_address", "credit_card"]] = field(default_factory=list)
    """Kinds of personal data that are replaced by `[EMAIL]`, `[PHONE]` and so on."""
    hook: str | None = None
    """`FILE.py:FUNCTION` of your own (relative to the recipe), which gets every text of a row and returns the text to use."""
    min_length: dict[str, int] = field(default_factory=dict)
    """Field: rows whose text there has fewer characters are left out."""
    max_length: dict[str, int] = field(default_factory=dict)
    """Field: rows whose text there has more characters are left out."""
    exact_duplicates: bool = False
    """Leave out rows whose fields (but id, idx and guid) all equal those of an earlier row."""
    near_duplicates: float | None = None
    """Leave out rows whose input (the text itself, where it is all that a row has) is as similar to that of an earlier row
    (Jaccard, such as 0.8)."""


@dataclass(frozen=True)
class PromptConfig:
    """How an example becomes text and tokens."""

    template: Literal["chat"] | dict[str, str] | None = None
    """Language code (or `default`): prompt template with {fields}; left out: the task's own. `chat`: the base's chat template."""
    max_length: int = 512
    """Most tokens of prompt and response together."""
    on_too_long: Literal["error", "drop", "truncate_prompt"] = "error"
    """What happens to a longer example: `error` stops, `drop` leaves it out, `truncate_prompt` cuts the end of its long field.
    The response is never cut."""
    allow: list[Literal["target_roundtrip", "leak", "empty_field"]] = field(default_factory=list)
    """Findings of the audit that shall not stop the run: target_roundtrip, leak, empty_field."""
    num_fewshot: int = 0
    """Solved examples before every prompt, drawn once from the training rows of each language; they leave the training split."""
    both_directions: bool = False
    """Translation: every row also the other way round."""
    length: int | None = None
    """Summaries of about so many words (Chinese, Japanese: characters) are asked for; in training, of each summary's own length."""
    length_unit: Literal["auto", "words", "characters", "sentences"] = "auto"
    """What `length` counts; `auto`: by language."""
    extractive: bool = False
    """Question answering: an answer that does not stand in the context is an error in the data, a counted failure in an output."""
    all_answers: bool = False
    """Question answering: the answers of a row are one answer of several parts, not several ways to say one."""
    label_descriptions: dict[str, str] = field(default_factory=dict)
    """Classification: label: what it means; labels and descriptions are then written into the prompt."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation, by transformers' names."""

    num_train_epochs: float = 3.0
    """Passes over the training rows."""
    max_steps: int = -1
    """Stop after so many optimizer steps; -1: by epochs."""
    learning_rate: float | Literal["auto"] = "auto"
    """`auto`: from the model's width, by a published rule for LoRA with Adam and its kin (printed with its value). Other
    optimizers and `adapter: null` need a number."""
    optim: str = "adamw_torch_fused"
    """transformers' name of the optimizer (adamw_bnb_8bit, lion_32bit, adafactor, sgd, ...), or a class as `torch.optim.NAdam`,
    `bitsandbytes.optim.LAMB`. schedule_free_adamw needs the extra `optimizers` and `lr_scheduler_type: constant`."""
    optim_args: dict[str, Any] = field(default_factory=dict)
    """Further settings of the optimizer, by its class's own names."""
    loraplus_lr_ratio: float | None = None
    """LoRA+: the matrices B learn so many times as fast as A (16 in the paper); of an embedding, both learn as A."""
    lr_scheduler_type: str = "cosine"
    """transformers' name of the schedule."""
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further settings of the schedule, by transformers' names."""
    warmup_steps: float = 0.05
    """Steps of warm-up; below 1 a share of all steps."""
    weight_decay: float = 0.0
    """Weight decay of the optimizer (decoupled in AdamW)."""
    adam_beta2: float = 0.999
    """Second-moment decay of AdamW and its kin."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0: not at all."""
    tokens_per_batch: int = 2048
    """Most tokens in one packed batch."""
    share_prefixes: Literal["auto"] | bool = "auto"
    """Compute once what several examples begin with (questions on one passage); they then share a batch. `auto`: where that
    saves a quarter of all tokens."""
    gradient_accumulation_steps: int = 1
    """Batches in one optimizer step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    eval_times: int = 4
    """Evaluations on the validation split, evenly over the run."""
    metric_for_best_model: str | None = None
    """The checkpoint with the best value becomes the adapter; left out: the suite's first metric."""
    early_stopping_patience: int | None = None
    """Stop after so many evaluations in a row without a better value; left out: never."""
    save_steps: int = 100
    """Optimizer steps between resumable checkpoints."""
    logging_steps: int = 10
    """Optimizer steps between lines of log.jsonl."""
    report_to: list[str] = field(default_factory=list)
    """Trackers by accelerate's names (tensorboard, wandb, trackio, ...) that get what log.jsonl gets."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A NaN or infinite loss or gradient stops the run with the step's rows; `skip` leaves the step out, counts and names it."""
    preflight: bool = True
    """Before step 1, run the longest batch, one evaluation and one save, so that too little memory shows at once."""
    label_smoothing_factor: float = 0.0
    """Part of each target's probability that is spread evenly over the vocabulary; the logged loss has it too."""
    neftune_noise_alpha: float | None = None
    """NEFTune: uniform noise on embedded tokens in training, scaled alpha / sqrt(L d) for an example of L tokens; 5 is usual."""
    fgm_epsilon: float | None = None
    """Adversarial training (FGM): adds the loss at embedded tokens moved by so much against the example; two passes a batch."""
    freeze: list[str] = field(default_factory=list)
    """With `adapter: null`: parameters that stay as they are, by a run of their dotted name (`embed_tokens`, `layers.0`) or a
    regular expression for all of it."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weight of a label's examples in the loss, `label: number`; `balanced`: rows / (labels x rows of the label)."""
    seed: int = 42
    """Seed of everything random."""


@dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation from a larger model."""

    teacher: str
    """Hub id or folder of a LLaMA with the same tokenizer."""
    revision: str | None = None
    """Commit, tag or branch of a Hub teacher."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the teacher, as `base.dtype`."""
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"
    """Bits of the teacher, as `base.quantization`."""
    temperature: float = 2.0
    """Both models' logits are divided by it before they are compared."""
    alpha: float = 0.5
    """Share of the teacher in the loss; the rest is that of the targets."""


@dataclass(frozen=True)
class Suite:
    """What is measured, and how outputs are made."""

    scoring: Literal["generate", "likelihood", "perplexity"] = "generate"
    """`likelihood` ranks the label set (or a row's choices) by probability; `perplexity` scores plain text."""
    metrics: list[str] = field(default_factory=list)
    """Names from `llama_tasks.metrics`, or of the task's own; the first one leads."""
    max_new_tokens: int = 64
    """Most tokens of a generated output."""
    min_new_tokens: int = 0
    """An output does not end before it has so many tokens."""
    num_beams: int = 1
    """Beam search; 1 is greedy decoding."""
    length_penalty: float = 1.0
    """Beam search: above 0 longer outputs are preferred, below 0 shorter ones."""
    early_stopping: bool = False
    """Beam search: stop as soon as `num_beams` outputs have ended."""
    do_sample: bool = False
    """Draw each token by its probability; every row has random numbers of its own, from `seed` and its id."""
    temperature: float = 1.0
    """Sampling: logits are divided by it."""
    top_k: int = 0
    """Sampling: of the so many likeliest tokens only; 0: of all."""
    top_p: float = 1.0
    """Sampling: of the likeliest tokens whose probabilities add up to it."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of prompt and output become less likely (Keskar et al., 2019, CTRL)."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens, prompt counted in, is written twice; 0: any may be."""
    engine: Literal["auto", "native", "transformers", "continuous_batching", "vllm"] = "auto"
    """What decodes (docs/metrics.md); `auto`: the native slots where they can, else transformers' `generate`."""
    tokens_per_batch: int = 8192
    """Most tokens (prompt and output) computed together; the native slots keep four times as many."""
    general_text: str | None = "embedded"
    """Plain texts whose loss is measured before and after: `embedded`, or a file of rows {text, lang}; `null`: none."""
    n_resamples: int = 1000
    """Bootstrap resamples behind intervals and p-values, 100 or more."""
    seed: int = 12345
    """Seed of the bootstrap and of sampling."""


@dataclass(frozen=True)
class Recipe:
    """One run, complete."""

    task: str
    """translate, summarize, qa, classify, text, or a Python file with a task of your own (relative to the recipe)."""
    base: BaseConfig = field(default_factory=BaseConfig)
    data: DataConfig = field(default_factory=DataConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    adapter: dict[str, Any] | None = field(default_factory=lambda: {"peft_type": "LORA", "r": 16, "lora_alpha": 32})
    """Any field of peft's configuration classes by peft's own name; `null` trains all weights."""
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig | None = None
    """Learn from a larger model's probabilities too; left out: from the targets alone."""
    eval: Suite = field(default_factory=Suite)
    """A suite file (relative to the recipe), or its content."""
    output: str | None = None
    """Run directory; left out: runs/<recipe's name>."""
