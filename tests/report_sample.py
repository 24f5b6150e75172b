"""A realistic report to draw: dialogues in English and abstracts in Chinese, summarised by a base and an adapter."""

from __future__ import annotations

import math
import random
from typing import Any

from llama_tasks import metrics
from llama_tasks.evaluation import slices
from llama_tasks.report import System, build

ENGLISH = [
    (
        "#Person1#: Are you ready for the meeting tomorrow?\n#Person2#: Almost. I still need the sales figures from "
        "March.\n#Person1#: I will send them to you tonight. Shall we meet at nine, an hour before the client?\n"
        "#Person2#: Nine is fine. Could you also book the small room? The large one is being painted.\n"
        "#Person1#: Of course. Anything else?\n#Person2#: Bring the samples, please.",
        "They prepare for tomorrow's meeting, and #Person1# will send the sales figures and book the small room.",
        "#Person1#: I will send them. #Person2#: Nine is fine. #Person1#: I will send them. #Person2#: Nine is fine.",
        "#Person1# will send #Person2# the sales figures and book the small room for the meeting.",
    ),
    (
        "#Person1#: Good morning. I would like to open a savings account.\n#Person2#: Certainly. May I see your "
        "passport?\n#Person1#: Here it is. Is there a minimum deposit?",
        "#Person1# wants to open a savings account and asks about the minimum deposit.",
        "",
        "#Person1# wants to open a savings account and asks about the minimum deposit.",
    ),
    (
        "#Person1#: You look tired.\n#Person2#: The neighbours had a party until three.\n#Person1#: Did you knock?",
        "#Person2# could not sleep because the neighbours had a party.",
        "#Person2# is tired because the neighbours had a party.",
        "#Person1# looks tired and wants to knock.",
    ),
]
CHINESE = [
    (
        "目的:了解抗高血压药的应用情况及趋势.方法:对某院四年间抗高血压药的销售金额、用药频度、日均费用等进行回顾性分析."
        "结果:销售金额和用药频度均有不同程度的增长,其中利尿药、钙拮抗药和β受体阻滞剂占总金额的六成以上.结论:应提高国产"
        "长效制剂的质量和疗效,降低价格,减少不良反应.",
        "某院四年抗高血压药利用分析",
        "目的:了解抗高血压药的应用情况及趋势.方法:对某院",
        "某院抗高血压药应用分析",
    ),
    (
        "采用两方程湍流模型对不同负载时家用空调贯流风机内部偏心涡的演化规律进行了数值模拟.",
        "贯流风机内部偏心涡演化的数值模拟",
        "采用两方程",
        "贯流风机内部偏心涡演化的数值模拟",
    ),
    (
        "介绍了一种基于图像处理的苹果分级方法,在传送带上实时测量果径与颜色,准确率达到百分之九十四.",
        "基于图像处理的苹果自动分级",
        "苹果 苹果 苹果 苹果 苹果 苹果",
        "一种苹果分级方法",
    ),
]
HOSTILE = (
    '</td></table><script>document.title="owned"</script><img src=x onerror=\'document.title="owned"\'>'
    '<a href="javascript:document.title=1">x</a>]]>--> "quoted" | pipe `tick` [red]rich[/red] {{ 7*7 }} '
    "@someone **bold** \x1b[31mred\x1b[0m \x1b]8;;http://evil.example\x07link\x1b]8;;\x07 \u202eright to left\u202c\n"
    "| second | line |"
)


def rows(count: int = 40) -> list[dict[str, Any]]:
    """`count` rows, English and Chinese in turn: id, lang, input, references, and both answers."""
    made = []
    for at in range(count):
        lang, texts = ("en", ENGLISH) if at % 2 == 0 else ("zh", CHINESE)
        document, reference, base, adapter = texts[at // 2 % 3]
        row = {"id": f"test:{at}", "lang": lang, "input": {"document": document}, "references": [reference]}
        made.append(row | {"base": base, "adapter": adapter})
    return made


def score(metric: str, lang: str, value: float, half: float, n: int = 150) -> dict[str, Any]:
    """One `Score.to_dict()`."""
    signature = f"{metric}|lang:{lang}|tok:{'char' if lang == 'zh' else '13a'}|bs:1000|seed:12345|version:0.1.0"
    bounds = (value - half, value + half)
    return {"metric": metric, "lang": lang, "value": value, "interval": bounds, "n": n, "signature": signature}


def training() -> dict[str, Any]:
    """400 steps of a falling, noisy loss with warm-up and cosine decay, and eight evaluations."""
    noise = random.Random(0)
    steps = []
    for step in range(1, 401):
        loss = 1.6 + 2.3 * math.exp(-step / 70) + noise.gauss(0, 0.12)
        rate = 2e-4 * (step / 20 if step < 20 else 0.5 + 0.5 * math.cos(math.pi * (step - 20) / 380))
        steps.append({"step": step, "loss": loss, "learning_rate": rate, "tokens_per_second": 2100.0})
    values = [14.1, 24.0, 30.2, 33.8, 35.9, 36.8, 36.5, 36.1]
    evaluations = [{"step": 50 * (at + 1), "metric": "rougeL", "value": value} for at, value in enumerate(values)]
    sizes = {"trainable_parameters": 4_884_480, "total_parameters": 139_399_488}
    return {"steps": steps, "evaluations": evaluations, "best_step": 300, "seconds": 1392.4} | sizes


def provenance() -> dict[str, Any]:
    """Where the numbers came from."""
    return {
        "llama_tasks": "0.1.0",
        "versions": {"python": "3.12.4", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0"},
        "hardware": {"device": "cpu", "cores": 8, "memory": "16 GiB"},
        "git": "3f2a9c1",
        "seed": 0,
        "base_model": "HuggingFaceTB/SmolLM2-135M",
        "base_revision": "93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
        "data": {
            "train": {"rows": 4000, "sha256": "9f86d081884c7d65" * 4, "source": "train.jsonl"},
            "test": {"rows": 300, "sha256": "60303ae22b998861" * 4, "source": "test.jsonl"},
        },
        "recipe": {
            "task": "summarize",
            "model": {"name": "HuggingFaceTB/SmolLM2-135M", "dtype": "bfloat16"},
            "adapter": {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]},
            "training": {"learning_rate": 2e-4, "max_steps": 400},
        },
    }


LABELS = ["sports", "business", "世界", "science"]


def insight(hostile: str = "") -> dict[str, Any]:
    """What a report says of labels, slices, leaks and general text; computed from rows where the project computes it."""
    noise = random.Random(1)
    names = [*LABELS[:3], hostile or LABELS[3]]
    truth = [names[at % 4] for at in range(200)]
    labels = {}
    for system, skill in (("base", 0.45), ("adapter", 0.85)):
        said = [label if noise.random() < skill else noise.choice([*names, "??"]) for label in truth]
        references = [[label] for label in truth]
        sure = [{name: noise.random() * (4 if name == label else 1) for name in {*names, label}} for label in said]
        metric = metrics.create("calibration_error:bins=10", "en")
        labels[system] = {
            "table": metrics.label_table(said, references, names),
            "confusion": metrics.confusion(said, references, names),
            "reliability": metrics.reliability(metrics.statistics(metric, said, references, choices=sure)),
        }
    made = [row | {"meta": {"domain": hostile if at % 2 and hostile else "news"}} for at, row in enumerate(rows(80))]
    values = {name: {row["id"]: noise.uniform(*span) for row in made} for name, span in SPANS.items()}
    side = {"value": 3.412, "interval": [3.3, 3.5]}
    general = {"metric": "perplexity", "lang": "en", "n": 20, "signature": "per:token", "base": side,
               "adapter": {"value": 3.51, "interval": [3.4, 3.6]}, "difference": 0.098, "difference_interval": [0.05, 0.15],
               "p_value": 0.002, "method": "paired-bootstrap", "detectable": 0.07, "higher_is_better": False}  # fmt: skip
    with_them = {"with": {"value": 40.0, "interval": [35, 45]}, "without": {"value": 35.0, "interval": [30, 40]}}
    leak = {"metric": "rougeL", "lang": "en", "n": 297, "base": with_them, "adapter": with_them}
    return {
        "labels": labels,
        "slices": {"metric": "rougeL", "columns": slices.slices(made, values, n_resamples=100)},
        "leaks": {"checked": True, "of": 300, "rows": 3, "kinds": {"exact": 1, "normalised": 0, "ngram": 2},
                  "first": [[f"test:3{hostile}", "train:7"], ["test:9", None]], "scores": [leak]},
        "general": {"source": hostile or "embedded", "scores": [general]},
    }  # fmt: skip


SPANS = {"base": (10, 40), "adapter": (20, 70)}


def sample_report(
    hostile: str = "", *, with_adapter: bool = True, with_insight: bool = False, **changes: Any
) -> dict[str, Any]:
    """The report of these rows; `hostile` text is put into every place that data can reach."""
    made = rows()
    if hostile:
        made += [hostile_row(f"{lang}:{hostile}", lang, hostile) for lang in ("en", "zh", hostile)]
    base = [
        score("rougeL", "en", 14.1, 1.6), score("rouge2", "en", 6.1, 1.2),
        score("rougeL", "zh", 18.5, 2.2), score("rouge2", "zh", 27.5, 2.9),
    ]  # fmt: skip
    adapter = [
        score("rougeL", "en", 37.4, 2.6), score("rouge2", "en", 15.2, 2.1),
        score("rougeL", "zh", 44.8, 3.3), score("rouge2", "zh", 28.9, 3.0),
    ]  # fmt: skip
    arguments: dict[str, Any] = {
        "task": hostile or "summarize",
        "command": f"make finetune TASK=summarize {hostile}".strip(),
        "base": _system("base", made, base, {"rows": 300, "empty": 12, "truncated": 97, "unparsable": 0}),
        "adapter": _system("adapter", made, adapter, {"rows": 300, "empty": 0, "truncated": 4, "unparsable": 1}),
        "comparisons": [
            _test("rougeL", "en", 23.3, 2.4, 0.0002), _test("rouge2", "en", 9.1, 2.0, 0.0004),
            _test("rougeL", "zh", 26.3, 3.1, 0.0002), _test("rouge2", "zh", 1.4, 2.2, 0.213),
        ],
        "training": training(),
        "provenance": provenance() | ({"note": hostile, hostile: {hostile: [hostile]}} if hostile else {}),
    }  # fmt: skip
    if with_insight:
        arguments["insight"] = insight(hostile)
    if not with_adapter:
        arguments |= {"adapter": None, "comparisons": [], "training": None}
    return build(**arguments | changes)


def sample_systems(hostile: str = "", count: int = 40) -> list[System]:
    """Both systems with all their rows, as the page's list of them takes them."""
    made = rows(count)
    if hostile:
        made += [hostile_row(f"{lang}:{hostile}", lang, hostile) for lang in ("en", "zh", hostile)]
    return [_system(name, made, [], {}) for name in ("base", "adapter")]


def hostile_row(row_id: str, lang: str, text: str) -> dict[str, Any]:
    """A row that says the same everywhere."""
    row = {"id": row_id, "lang": lang, "input": {"document": text, text: text}, "references": [text, text * 20]}
    return row | {"base": text, "adapter": text * 20}


def _system(name: str, made: list[dict[str, Any]], scores: list[dict[str, Any]], counts: dict[str, int]) -> System:
    kept = ("id", "lang", "input", "references")
    predictions = [{key: row[key] for key in kept} | {"prediction": row[name]} for row in made]
    fell = {"base": 71.4, "adapter": 35.3}
    values = {row["id"]: fell[name] if at % 9 == 4 else 20.0 + at / 10 for at, row in enumerate(made)}
    return System(name, scores, counts, predictions, values, "rougeL")


def _test(metric: str, lang: str, difference: float, half: float, p: float) -> dict[str, Any]:
    bounds = (difference - half, difference + half)
    method = "paired-bootstrap|bs:1000|seed:12345"
    found = {"difference": difference, "interval": bounds, "p_value": p, "method": method, "detectable": 3.1}
    return {"metric": metric, "lang": lang} | found
