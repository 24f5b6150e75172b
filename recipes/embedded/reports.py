"""Short news reports and their one-sentence summary: the summarization samples.

A report tells one event (who did what, where) among weather, numbers, voices and plans. The summary names the
person with the job, says what happened and where, and leaves out the day, the town and every detail. The event is
the first sentence in about half of the reports; elsewhere the report opens with the weather or by introducing the
person, whom the event then calls "she" or "he".
"""

from __future__ import annotations

from typing import NamedTuple

from lexicon import (
    ANIMAL_ADJECTIVES,
    ANIMALS,
    BIG_NUMBERS,
    COLOURS,
    DAYS,
    JOBS,
    NAMES,
    NUMBERS,
    OUTDOORS,
    PAST,
    PLACES,
    PORTABLE,
    PUBLIC,
    TOWNS,
    WOMEN,
)
from words import Dice, Pair, article, fill, indefinite, pairs


class Report(NamedTuple):
    document: Pair
    summary: Pair
    sentences: tuple[Pair, ...]


#: What happened. In Chinese "~" is 了 in the report and nothing in the summary, as in a headline.
EVENTS = (
    Pair("found {thing} {place}", "在{place}找到~{thing}"),
    Pair("showed {many} pictures {venue}", "在{venue}展出~{many}幅画"),
    Pair("saved {animal} {outdoors}", "在{outdoors}救下~{animal}"),
    Pair("opened a new {shop} near {building}", "在{building}附近开设~一家新{shop}"),
    Pair("won the {contest} {venue}", "在{venue}赢得~{contest}"),
    Pair("repaired {machine} {spot}", "修好~{spot}的{machine}"),
    Pair("planted {many} {plant} {outdoors}", "在{outdoors}种下~{many}{plant}"),
    Pair("gave {many} {goods} to {building}", "向{building}赠送~{many}{goods}"),
    Pair("sang for {many} {guests} {venue}", "在{venue}为{many}位{guests}唱~歌"),
    Pair("cooked {dish} for {many} {guests} {venue}", "在{venue}为{many}位{guests}做~{dish}"),
    Pair("painted {picture} on the wall of {building}", "在{building}的墙上画下~{picture}"),
    Pair("taught {many} {guests} to {skill} {venue}", "在{venue}教~{many}位{guests}{skill}"),
    Pair("sold {thing} for {many} yuan {venue}", "在{venue}以{many}元的价格卖出~{thing}"),
    Pair("built {many} {wooden} for {building}", "为{building}做好~{many}{wooden}"),
)
DETAILS = (
    Pair("the weather was {weather} that day.", "那天的天气{weather}。"),
    Pair("the sky over {town} was {sky}.", "{town}的天空{sky}。"),
    Pair("about {many} people came to watch.", "大约{many}个人来看。"),
    Pair("{friend} took {few} photos.", "{friend}拍了{few}张照片。"),
    Pair("many people in {town} talked about it.", "{town}的很多人都在谈论这件事。"),
    Pair("{friend} said that it was {praise}.", "{friend}说这{praise}。"),
    Pair('"This is {praise}!" said {friend}.', "“这{praise}！”{friend}说。"),
    Pair("after that everyone drank {drink} together.", "之后大家一起喝了{drink}。"),
    Pair("the newspaper will write about it on {day}.", "报纸{day}会报道这件事。"),
    Pair("{friend} will come again next week.", "{friend}下周会再来。"),
    Pair("{town} is a small and quiet town.", "{town}是一个安静的小镇。"),
    Pair("{friend} and {friend2} clapped and laughed.", "{friend}和{friend2}一边鼓掌一边笑。"),
    Pair("it took about {few} hours.", "这大约花了{few}个小时。"),
    Pair("the mayor of {town} was very {mood}.", "{town}的镇长非常{mood}。"),
    Pair("{friend} heard the news from {friend2}.", "{friend}从{friend2}那里听到了这个消息。"),
)
OPENINGS = (
    Pair("it was a {weather} day in {town}.", "那一天{town}的天气{weather}。"),
    Pair("there is news in {town}.", "{town}传来了新消息。"),
    Pair("the streets of {town} were full of people that day.", "那天{town}的街上有很多人。"),
    Pair("people in {town} like to help each other.", "{town}的人们喜欢互相帮助。"),
    Pair("{friend} and {friend2} have something to tell.", "{friend}和{friend2}有一件事要告诉大家。"),
)
LEADS = (
    Pair("{time} {name}, {a_job} from {town}, {event}.", "{time}，来自{town}的{job}{name}{event}。"),
    Pair("{name}, {a_job} from {town}, {event} {time}.", "来自{town}的{job}{name}{time}{event}。"),
    Pair("{a_job} called {name} {event} {time}.", "一位名叫{name}的{job}{time}{event}。"),
)
INTRODUCTIONS = (
    Pair("{name} is {a_job} in {town}.", "{name}是{town}的一名{job}。"),
    Pair("{name} lives in {town} and works as {a_job}.", "{name}住在{town}，是一名{job}。"),
)
FOLLOWING = (
    Pair("{time} {she} {event}.", "{time}，{she}{event}。"),
    Pair("{she} {event} {time}.", "{she}{time}{event}。"),
)

SLOTS: dict[str, tuple[Pair, ...]] = {
    "thing": tuple(
        indefinite(noun, adjective)
        for noun in PORTABLE
        if noun.en != "letter"
        for adjective in (*COLOURS, *pairs("old 旧 | small 小 | beautiful 漂亮的 | expensive 昂贵的"))
    ),
    "animal": tuple(indefinite(noun, adjective) for noun in ANIMALS for adjective in ANIMAL_ADJECTIVES),
    "place": tuple(place.at() for place in PLACES.values() if place.en not in ("kitchen", "office")),
    "outdoors": tuple(PLACES[name].at() for name in OUTDOORS),
    "venue": tuple(PLACES[name].at() for name in PUBLIC),
    "spot": tuple(Pair(PLACES[name].at().en, PLACES[name].zh) for name in PUBLIC),
    "building": tuple(PLACES[name].name() for name in PUBLIC),
    "shop": pairs(
        "bookshop 书店 | bakery 面包店 | tea house 茶馆 | flower shop 花店 | restaurant 餐馆 | shoe shop 鞋店"
    ),
    "contest": pairs(
        "chess competition 象棋比赛 | singing competition 唱歌比赛 | "
        "cooking competition 烹饪比赛 | dance competition 舞蹈比赛 | "
        "running race 跑步比赛 | drawing competition 绘画比赛"
    ),
    "machine": pairs(
        "the old clock 旧钟 | the big lamp 大灯 | the broken chairs 坏椅子 | "
        "the old door 旧门 | the broken window 坏窗户 | the roof 屋顶"
    ),
    "plant": pairs("apple trees 棵苹果树 | roses 株玫瑰 | pear trees 棵梨树 | flowers 株花"),
    "goods": pairs(
        "books 本书 | chairs 把椅子 | lamps 盏灯 | umbrellas 把雨伞 | "
        "maps 张地图 | cups 个杯子 | pictures 幅画 | baskets 个篮子"
    ),
    "wooden": pairs("chairs 把椅子 | tables 张桌子 | boxes 个盒子 | boats 条船 | kites 只风筝"),
    "guests": pairs("children 小朋友 | guests 客人 | students 学生 | farmers 农民 | old people 老人"),
    "dish": pairs("soup 汤 | noodles 面条 | fish 鱼 | rice 米饭 | pancakes 煎饼"),
    "skill": pairs("sing 唱歌 | dance 跳舞 | draw 画画 | swim 游泳 | play chess 下棋 | bake bread 烤面包"),
    "picture": tuple(indefinite(noun, colour) for noun in ANIMALS for colour in COLOURS),
    "many": BIG_NUMBERS,
    "few": NUMBERS,
    "weather": pairs("cold 很冷 | warm 很暖和 | hot 很热 | sunny 很晴朗 | fine 很好"),
    "sky": pairs("clear and blue 又晴又蓝 | full of clouds 布满了云 | dark 很暗 | bright 很明亮"),
    "praise": pairs("wonderful 太好了 | a big surprise 真是个大惊喜 | not easy 并不容易 | very interesting 很有意思"),
    "drink": pairs("tea 茶 | coffee 咖啡 | juice 果汁 | hot milk 热牛奶"),
    "mood": pairs("happy 高兴 | proud 自豪 | surprised 惊讶"),
    "friend": NAMES,
    "town": TOWNS,
    "time": PAST,
    "day": DAYS,
}


def event(dice: Dice) -> tuple[Pair, Pair]:
    """The same event as the report tells it, and as the summary does."""
    en, zh = fill(dice.pick(EVENTS), dice, SLOTS)
    en = en[0].lower() + en[1:]
    return Pair(en, zh.replace("~", "了")), Pair(en, zh.replace("~", ""))


def report(dice: Dice) -> Report:
    """Three to five sentences with one event, and the sentence that sums them up."""
    name, job, town, time = dice.pick(NAMES), dice.pick(JOBS), dice.pick(TOWNS), dice.pick(PAST)
    told, short = event(dice)
    she = Pair("she", "她") if name in WOMEN else Pair("he", "他")
    given = {
        "name": name,
        "job": job,
        "a_job": Pair(article(job.en), job.zh),
        "town": town,
        "time": time,
        "she": she,
        "event": told,
    }
    slots = {**SLOTS, "friend": tuple(friend for friend in NAMES if friend != name)}

    introduced = dice.chance(0.4)
    main = [dice.pick(INTRODUCTIONS), dice.pick(FOLLOWING)] if introduced else [dice.pick(LEADS)]
    opening = [dice.pick(OPENINGS)] if dice.chance(0.45) else []
    details = dice.sample(DETAILS, 2 if opening or dice.chance(0.5) else 3)
    sentences = tuple(fill(template, dice, slots, **given) for template in opening + main + details)
    document = Pair(" ".join(sentence.en for sentence in sentences), "".join(sentence.zh for sentence in sentences))
    return Report(
        document, Pair(f"{job.en} {name.en} {short.en}.", f"{job.zh}{name.zh}{short.zh}。").sentence(), sentences
    )
