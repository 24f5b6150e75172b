"""The labels of the report's pages, in English and Chinese."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from llama_tasks.report.content import TRAINED
from llama_tasks.report.text import metric_name

WORDS: dict[str, tuple[str, str]] = {
    "against": ("adapter against base", "适配器与基座的对比"),
    "of_base": ("evaluation of the base", "基座的评测"),
    "of_trained": ("evaluation of the trained model", "训练后模型的评测"),
    "comparison": ("comparison", "对比"),
    "base": ("base", "基座"),
    "trained": (TRAINED, "训练后的模型"),
    "adapter": ("adapter", "适配器"),
    "scores": ("Scores", "分数"),
    "scores_note": (
        "0 to 100, higher is better where nothing else is said, with 95% bootstrap intervals.",
        "0 到 100，未特别说明时越高越好；附 95% 自助法置信区间。",
    ),
    "lower": ("lower is better", "越低越好"),
    "neither": ("neither way is better", "无好坏之分"),
    "same_rows": ("on the same rows.", "在相同的行上。"),
    "metric": ("metric", "指标"),
    "rows": ("rows", "行数"),
    "rows_unit": ("rows", "行"),
    "interval": ("interval", "区间"),
    "difference": ("difference", "差值"),
    "p": ("p", "p 值"),
    "detectable": ("detectable", "可检出差值"),
    "p_note": (
        "A coloured difference has p < 0.05. The p-values are not corrected for the number of comparisons. Detectable: the "
        "smallest true difference that a test on so many rows finds in four of five cases.",
        "彩色差值表示 p < 0.05。p 值未按比较次数校正。可检出差值：在这么多行上，检验有八成把握发现的最小真实差值。",
    ),
    "holm_note": (
        "The p-values are corrected after Holm for all pairs of a metric. Detectable: the smallest true difference that a "
        "test on so many rows finds in four of five cases.",
        "p 值已按 Holm 方法对同一指标的所有配对校正。可检出差值：在这么多行上，检验有八成把握发现的最小真实差值。",
    ),
    "answered": ("How the systems answered", "各系统的回答情况"),
    "answered_note": (
        "Every row is scored, also the empty, the cut-off and the unreadable answer. Truncated: it never stopped by itself.",
        "每一行都计分，包括空的、被截断的和无法解析的回答。截断：没有自行停止。",
    ),
    "system": ("system", "系统"),
    "labels": ("Labels", "标签"),
    "label": ("label", "标签"),
    "precision": ("precision", "精确率"),
    "recall": ("recall", "召回率"),
    "f1": ("F1", "F1"),
    "predicted": ("predicted", "预测次数"),
    "confusion": ("Confusion matrix", "混淆矩阵"),
    "confusion_note": ("Rows: the true label; columns: what was predicted.", "行：真实标签；列：预测结果。"),
    "outside": ("none of them", "不在标签中"),
    "mistakes": ("Most frequent mistakes", "最常见的错误"),
    "true": ("true", "真实"),
    "reliability": ("Calibration", "校准"),
    "reliability_note": (
        "How often the model was right, by how sure it was; on the dashed line it knows how sure it may be. The stronger the "
        "colour, the more rows.",
        "按模型的把握程度统计的准确率；落在虚线上表示把握恰当。颜色越深，行数越多。",
    ),
    "confidence": ("confidence", "把握"),
    "accuracy": ("accuracy", "准确率"),
    "slices": ("Slices", "分组"),
    "slices_note": (
        "The mean over the rows of a group of each row's own value",
        "每组各行自身取值的平均，所用指标：",
    ),
    "slice_input_length": ("input length", "输入长度"),
    "slice_answer_length": ("answer length, characters", "答案长度（字符）"),
    "slice_language": ("language", "语言"),
    "slice_label": ("label", "标签"),
    "group": ("group", "组"),
    "worst": ("worst", "最差"),
    "gap": ("gap to the best", "与最好组的差距"),
    "leaks": ("Leak check", "泄漏检查"),
    "leaks_none": (
        "No test row was found among the training rows.",
        "训练数据中没有发现测试行。",
    ),
    "leaks_not_done": (
        "Test rows were not compared with the training rows:",
        "没有将测试行与训练行比较：",
    ),
    "leaks_found": (
        "test rows are also in the training rows, so scores with them say too much.",
        "个测试行也出现在训练数据中，含这些行的分数偏乐观。",
    ),
    "exact": ("exact", "完全相同"),
    "normalised": ("normalised", "规范化后相同"),
    "ngram": ("n-grams", "n 元片段"),
    "with": ("with them", "含泄漏行"),
    "without": ("without them", "不含泄漏行"),
    "general": ("General text, before and after", "通用文本：训练前后"),
    "general_note": (
        "How well each model predicts plain text that has nothing to do with the task; lower is better. A rise is what was "
        "forgotten.",
        "各模型对与任务无关的普通文本的预测情况，越低越好；上升说明有所遗忘。",
    ),
    "texts": ("texts", "篇"),
    "perplexity": ("perplexity", "困惑度"),
    "bits per byte": ("bits per byte", "每字节比特数"),
    "training": ("Training", "训练"),
    "step": ("step", "步"),
    "paired bootstrap": ("paired bootstrap", "配对自助法检验"),
    "paired bootstrap sacrebleu": ("paired bootstrap (sacrebleu's)", "配对自助法检验（sacrebleu 版）"),
    "approximate randomisation": ("approximate randomisation", "近似随机化检验"),
    "mcnemar exact": ("McNemar, exact", "McNemar 精确检验"),
    "training loss": ("training loss", "训练损失"),
    "learning rate": ("learning rate", "学习率"),
    "trainable": ("trainable parameters", "可训练参数"),
    "of": ("of", "／共"),
    "time": ("time", "用时"),
    "best_step": ("best step", "最佳步"),
    "dashed": ("dashed line", "虚线"),
    "got_worse": ("Rows that got worse", "变差的行"),
    "got_worse_note": (
        "The rows whose own value fell most: chosen to be looked at, not a fair sample.",
        "自身取值下降最多的行：供查看，并非公平抽样。",
    ),
    "examples": ("Examples", "示例"),
    "examples_note": (
        "Drawn with a fixed seed, evenly over languages; not chosen by hand.",
        "按固定种子抽取，各语言均匀；并非人工挑选。",
    ),
    "every_row": ("Every row", "全部行"),
    "every_row_note": (
        "Marked: what an answer has and the reference has not.",
        "标出的部分：回答中有而参考答案中没有的内容。",
    ),
    "input": ("input", "输入"),
    "reference": ("reference", "参考答案"),
    "same": ("same as the reference", "与参考答案相同"),
    "no_text": ("(empty)", "（空）"),
    "empty": ("empty", "空"),
    "truncated": ("truncated", "截断"),
    "unparsable": ("unparsable", "无法解析"),
    "shortened": ("shortened prompt", "提示被缩短"),
    "provenance": ("Where these numbers come from", "这些数字的来源"),
    "data": ("Data", "数据"),
    "part": ("part", "部分"),
    "source": ("source", "来源"),
    "sha256": ("sha256", "sha256"),
    "signatures": ("Signatures", "签名"),
    "recipe": ("Recipe", "配方"),
    "reproduce": ("To reproduce", "复现命令"),
    "footer": (
        "Written by llama-tasks. This page is complete in itself and loads nothing.",
        "由 llama-tasks 生成。本页自成一体，不加载任何内容。",
    ),
    "search": ("Search the rows", "搜索"),
    "all_languages": ("all languages", "所有语言"),
    "all_answers": ("all answers", "所有回答"),
    "wins": ("better", "变好"),
    "losses": ("worse", "变差"),
    "ties": ("the same", "持平"),
    "failed": ("failed", "有问题"),
    "by_order": ("in order", "按原顺序"),
    "by_fall": ("most fallen first", "下降最多在前"),
    "by_rise": ("most risen first", "上升最多在前"),
    "by_value": ("lowest value first", "取值最低在前"),
    "more": ("Show more", "显示更多"),
    "explained": ("what an output rests on", "输出的依据"),
    "output": ("Output", "输出"),
    "output_note": ("Choose a token to see what it alone rests on.", "点选一个词元，查看它单独的依据。"),
    "rests_on": ("Prompt", "提示"),
    "heat_note": (
        "The stronger the colour, the more weight; green speaks for the output, red against it. Attention has no sign.",
        "颜色越深权重越大；绿色支持该输出，红色反对。注意力没有正负。",
    ),
    "input_x_gradient": ("input x gradient", "输入乘梯度"),
    "attention_rollout": ("attention rollout", "注意力展开"),
    "whole_output": ("the whole output", "整个输出"),
    "explain_footer": (
        "Written by llama-tasks explain. This page is complete in itself and loads nothing. Gradients speak of small changes, "
        "attention of where the model looked; neither proves a cause.",
        "由 llama-tasks explain 生成。本页自成一体，不加载任何内容。梯度只反映微小变化，注意力只反映模型看向哪里，都不能证明因果。",
    ),
    "pairs": ("Every pair", "两两比较"),
    "rows_won_note": (
        "Rows better, worse and the same: those of the language of the line, each by its own value",
        "变好、变差、持平的行数只计该语言的行，按各行自身取值",
    ),
    "rows_won": ("rows better / worse / same", "变好 / 变差 / 持平的行"),
}


def first_system(report: dict[str, Any]) -> str:
    """The key of the words for a report's first system: `base`, or `trained` where all weights were."""
    return "trained" if (report.get("systems") or {}).get("base") == TRAINED else "base"


def both(english: str, chinese: str) -> Markup:
    """A label in both languages; the style shows one of them."""
    return Markup('<span class="en">{}</span><span class="zh" lang="zh">{}</span>').format(english, chinese)


def metric_words(metric: object) -> tuple[str, str]:
    """A metric's name in English and Chinese; most are written as the field writes them, in both."""
    name = metric_name(metric)
    return WORDS[name] if name in ("accuracy", "perplexity", "bits per byte") else (name, name)


def metric(name: object) -> str:
    """The name for a page, in both languages where they differ."""
    english, chinese = metric_words(name)
    return english if english == chinese else both(english, chinese)


LABELS = {key: both(*pair) for key, pair in WORDS.items()}
