"""The model card: what an adapter is, what it scored, how to load it with plain transformers + peft.

Everything that comes from data or from the user is escaped: YAML by `yaml.safe_dump`, Markdown and HTML by `markdown`,
code by a fence longer than any run of backticks inside it.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from llama_tasks.prompts import BETWEEN
from llama_tasks.tokens.chat import TODAY

TEMPLATE = "card.md.jinja"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~#$])")
_FIELD = re.compile(r"\{(\w+)\}")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_DATA_FILE = re.compile(r"\.(jsonl?|csv|tsv|parquet|txt)$", re.IGNORECASE)
# The user's part of a URL, and a query that may be a signature.
_URL = re.compile(
    r"""\b([a-z][a-z0-9+.-]*://)(?:[^\s/@'"]+@)?([^\s?'"]*)(?:\?[^\s'"]*(?:sig|token|key|credential)[^\s'"]*)?""",
    re.IGNORECASE,
)
_ABSOLUTE = re.compile(r"""(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\~][^\s'"]*[/\\]([^\s'"/\\]+)""")
_METRIC_NAMES = {
    "bleu": ("bleu", "BLEU"),
    "chrf": ("chrf", "chrF"),
    "rouge1": ("rouge", "ROUGE-1"),
    "rouge2": ("rouge", "ROUGE-2"),
    "rougeL": ("rouge", "ROUGE-L"),
    "rougeLsum": ("rouge", "ROUGE-Lsum"),
    "exact_match": ("exact_match", "Exact match"),
    "macro_f1": ("f1", "Macro F1"),
    "micro_f1": ("f1", "Micro F1"),
}


class Raw(str):
    """Text that is already Markdown."""


def model_card(
    run_dir: Path,
    repo_id: str,
    base_model: str,
    revision: str,
    *,
    license: str | None = None,
) -> str:
    """README.md of the run's adapter as it will stand at `repo_id`, for the base `base_model` at commit `revision`.

    license: Hub license identifier; left out, the card says that the author has not chosen one.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("llama_tasks", "hub"),
        undefined=StrictUndefined,
        finalize=markdown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # `finalize` escapes for Markdown and HTML at once
    )
    environment.filters |= {"fence": fence, "number": number, "span": span, "probability": probability, "pairs": pairs}
    view = _view(run_dir, repo_id, base_model, revision) | {"license": license}
    header = yaml.safe_dump(_front_matter(view), sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{header}---\n\n" + environment.get_template(TEMPLATE).render(view)


def base_card(repo_id: str, adapter_id: str, license: str | None = None) -> str:
    """README.md of a local base that is published so that the adapter `adapter_id` can be loaded."""
    header = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["llama-tasks"]}
    header |= {"license": license} if license else {}
    name = repo_id.rpartition("/")[2]
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {markdown(name)}\n\n"
        f"A LLaMA base model in the plain format of transformers, published because the adapter "
        f"[{markdown(adapter_id)}](https://huggingface.co/{adapter_id}) was trained on it. "
        "It was not evaluated by itself.\n"
    )


def markdown(value: object) -> str:
    """One line of text as literal Markdown: no markup, no HTML, no control characters."""
    if isinstance(value, Raw):
        return value
    return _MARKDOWN.sub(r"\\\1", html.escape(plain(str(value)), quote=False))


def plain(text: str) -> str:
    """One line without control and direction-changing characters."""
    return " ".join(_CONTROL.sub("", text).split())


def fence(text: str, language: str = "") -> Raw:
    """A code block that its own content cannot leave."""
    text = _CONTROL.sub("", text).rstrip("\n")
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Raw(f"{ticks}{language}\n{text}\n{ticks}")


def number(value: object) -> Raw:
    """Two decimals, or a dash for what was not measured."""
    return Raw(f"{value:.2f}" if isinstance(value, int | float) and math.isfinite(value) else "–")


def span(interval: Any) -> Raw:
    """`[low, high]`, or nothing."""
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return Raw("")
    return Raw(f"[{number(interval[0])}, {number(interval[1])}]")


def probability(value: object) -> Raw:
    """A p-value."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return Raw("–")
    return Raw("< 0.001" if value < 0.001 else f"{value:.3f}")


def pairs(facts: dict[str, Any], separator: str = " ") -> str:
    """`torch 2.9, peft 0.18`: what is known of a mapping, on one line."""
    known = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in facts.items()}
    return ", ".join(f"{key}{separator}{value}" for key, value in known.items() if value not in (None, "", {}))


def public(value: Any) -> Any:
    """A JSON tree without absolute paths, of each only the last part stays, and without what is secret in a URL: the user's part,
    and the query, which may be a signature."""
    if isinstance(value, dict):
        return {public(key): public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value
    value = _URL.sub(r"\1\2", value)
    if PurePosixPath(value).is_absolute() and "\n" not in value:
        return PurePosixPath(value).name
    if PureWindowsPath(value).is_absolute() and "\n" not in value:
        return PureWindowsPath(value).name
    return _ABSOLUTE.sub(r"\1", value)


def _view(run_dir: Path, repo_id: str, base_model: str, revision: str) -> dict[str, Any]:
    """Everything the template shows, read from the run directory."""
    contract = json.loads((run_dir / "adapter" / "prompt_contract.json").read_text(encoding="utf-8"))
    adapter = json.loads((run_dir / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    report = _read_json(run_dir / "report.json")
    environment, numbers = _read_json(run_dir / "environment.json"), report.get("provenance", {})
    provenance = public({**environment, **numbers, **numbers.get("training", {})})  # a later evaluation has its own
    recipe = _recipe(run_dir, base_model, revision)
    template = _main_template(contract)
    fields = list(dict.fromkeys(_FIELD.findall(template)))
    return {
        "name": repo_id.rpartition("/")[2],
        "repo_id": repo_id,
        "base_model": base_model,
        "revision": revision,
        "task": contract["task"],
        "contract": contract,
        "adapter": adapter,
        "scores": report.get("scores", []),
        "counts": report.get("counts", {}),
        "training": report.get("training", {}),
        "command": public(environment.get("command", report.get("command", ""))),
        "data": provenance.get("data") or {},
        "versions": provenance.get("versions") or {},
        "hardware": provenance.get("hardware") or {},
        "seed": provenance.get("seed", recipe.get("train", {}).get("seed")),
        "quantization": _quantization(recipe.get("base", {})),
        "recipe": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else "",
        "languages": _languages(contract, report.get("scores", [])),
        "datasets": _datasets(recipe),
        "evaluated_on": _evaluated_on(provenance),
        "usage": usage(repo_id, base_model, revision, contract, template, fields),
    }


def _quantization(base: Mapping[str, Any]) -> str:
    fields = base.get("quantization_config") or {}
    return ", ".join(f"{key}={value}" for key, value in fields.items()) or base.get("quantization", "none")


def usage(
    repo_id: str, base_model: str, revision: str, contract: dict[str, Any], template: str, fields: Iterable[str]
) -> str:
    """Python code that loads base and adapter and answers one prompt, without llama-tasks."""
    filled = {field: f"<{field}>" for field in fields}
    if "labels" in filled and contract.get("labels"):
        filled["labels"] = contract["sample"].get("labels", ", ".join(contract["labels"]))
    special = contract["special_ids"]
    starts = contract["sample"]["input_ids"][:1] == [special.get("bos")]
    bos = f"[{special['bos']}] + " if starts else ""
    max_new_tokens = contract.get("decoding", {}).get("max_new_tokens", 64)
    pad = special["eos"] if special.get("pad") is None else special["pad"]
    return f"""\
import re

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({_literal(base_model)}, revision={_literal(revision)})
model = PeftModel.from_pretrained(base, {_literal(repo_id)}).eval()
tokenizer = AutoTokenizer.from_pretrained({_literal(repo_id)})

template = {_literal(template)}
fields = {_literal(filled)}
prompt = {_before(contract)}re.sub(r"\\{{(\\w+)\\}}", lambda match: fields.get(match[1], match[0]), template)
{_ids(contract, bos)}
ids = torch.tensor([ids])
output = model.generate(
    input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens={int(max_new_tokens)},
    eos_token_id={contract["sample"]["input_ids"][-1]}, pad_token_id={pad},
)
print(tokenizer.decode(output[0, ids.shape[1]:], skip_special_tokens=True))
"""


def _before(contract: dict[str, Any]) -> str:
    """What stands before the template in every prompt, as the start of an expression."""
    parts = contract["template"]
    main = _main_key(contract)
    system = f"{parts['system']}{BETWEEN}" if parts.get("system") and not parts.get("chat") else ""
    fewshot = parts.get(f"fewshot.{main}", parts.get("fewshot.en", parts.get("fewshot", "")))
    return f"{_literal(system + fewshot)} + " if system + fewshot else ""


def _ids(contract: dict[str, Any], bos: str) -> str:
    """The line that makes ids of `prompt`."""
    parts = contract["template"]
    if not parts.get("chat"):
        return f"ids = {bos}tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)"
    system = [{"role": "system", "content": parts["system"]}] if parts.get("system") else []
    messages = "".join(f"{_literal(message)}, " for message in system)
    return (
        f'messages = [{messages}{{"role": "user", "content": prompt.strip()}}]\n'
        "ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, "
        f"date_string={_literal(TODAY)})"
    )


def _literal(value: object) -> str:
    """JSON text of strings and string mappings is also a Python literal."""
    return json.dumps(value, ensure_ascii=False)


def _front_matter(view: dict[str, Any]) -> dict[str, Any]:
    """The YAML header, by the Hub's model card specification (huggingface.co/docs/hub/model-cards)."""
    optional = {"language": view["languages"], "license": view["license"], "datasets": view["datasets"]}
    return {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": view["base_model"],
        "base_model_relation": "adapter",
        **{key: value for key, value in optional.items() if value},
        "tags": ["llama-tasks", plain(str(view["adapter"].get("peft_type", "LORA"))).lower(), plain(view["task"])],
        **({"model-index": _model_index(view)} if view["scores"] else {}),
    }


def _model_index(view: dict[str, Any]) -> list[dict[str, Any]]:
    source = plain(str(view["evaluated_on"]))
    results = []
    for score in view["scores"]:
        value = score["adapter"]["value"]
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        kind, name = _METRIC_NAMES.get(score["metric"], (score["metric"], score["metric"]))
        results.append(
            {
                "task": {"type": "text-generation", "name": plain(view["task"])},
                "dataset": {
                    "name": f"{source} ({plain(score['lang'])})",
                    "type": source if _is_hub_id(source) else "custom",
                },
                "metrics": [{"type": plain(kind), "name": plain(name), "value": round(float(value), 4)}],
            }
        )
    return [{"name": view["name"], "results": results}]


def _recipe(run_dir: Path, base_model: str, revision: str) -> dict[str, Any]:
    path = run_dir / "recipe.yaml"
    recipe = public(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}
    if isinstance(recipe.get("base"), dict):
        recipe["base"] |= {"model": base_model, "revision": revision}
    return recipe


def _main_template(contract: dict[str, Any]) -> str:
    """The template that the usage example shows."""
    return str(contract["template"][_main_key(contract)])


def _main_key(contract: dict[str, Any]) -> str:
    """The default template, of the variant that the run used, else the first."""
    templates, variant = contract["template"], contract["sample"].get("variant")
    keys = [*([f"default.{variant}"] if variant else []), "default", "en"]
    return next((key for key in keys if key in templates), next(iter(templates)))


def _languages(contract: dict[str, Any], scores: list[dict[str, Any]]) -> list[str]:
    codes = {*contract["template"], *(score["lang"] for score in scores)}
    return sorted(code for code in codes if re.fullmatch(r"[a-z]{2,3}", code))


def _datasets(recipe: dict[str, Any]) -> list[str]:
    sources = recipe.get("data", {}).get("train") or []
    return [source for source in ([sources] if isinstance(sources, str) else sources) if _is_hub_id(source)]


def _evaluated_on(provenance: dict[str, Any]) -> str:
    data = provenance.get("data") or {}
    return (data.get("test") or {}).get("source") or "held-out test rows"


def _is_hub_id(source: str) -> bool:
    """`org/name` that is neither a data file nor something on this disk."""
    return bool(_HUB_ID.fullmatch(source)) and not _DATA_FILE.search(source) and not Path(source).exists()


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
