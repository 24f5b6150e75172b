"""Short texts on six topics: the classification samples, one label set for both languages.

One sentence speaks of the topic, a neutral one stands before or after it, and some words (rain, match, hotel, ticket,
run) belong to two topics.
"""

from __future__ import annotations

from typing import NamedTuple

from lexicon import BIG_NUMBERS, FUTURE, HABIT, NAMES, NUMBERS, PAST, PLACES, PUBLIC, TOWNS
from words import Dice, Pair, fill, pairs

TOPICS: dict[str, tuple[Pair, ...]] = {
    "sports": (
        Pair("{name} scored {few} goals for {town} {past}.", "{name}{past}为{town}队进了{few}个球。"),
        Pair("the {ball} team from {town} won the match {past}.", "{town}的{ball}队{past}赢了比赛。"),
        Pair(
            "{name} ran very fast and came first in the race in {town}.", "{name}跑得很快，在{town}的赛跑中得了第一名。"
        ),
        Pair("{name} and {name2} play {ball} together {habit}.", "{name}和{name2}{habit}都一起练{ball}。"),
        Pair("the coach told {name} to train more for the {ball} match.", "教练让{name}为{ball}比赛多多训练。"),
        Pair("{name} swam across the lake and won a gold medal {past}.", "{name}{past}游过了湖，得了一枚金牌。"),
        Pair(
            "{many} fans cheered when {name} caught the ball {past}.",
            "{past}{name}接住球的时候，{many}名球迷欢呼起来。",
        ),
        Pair("the players from {town} will train in the stadium {future}.", "{town}的球员{future}会在体育场训练。"),
        Pair("the {ball} match in {town} went on in heavy rain {past}.", "{past}{town}的{ball}比赛在大雨中继续进行。"),
    ),
    "weather": (
        Pair("there was {sky} in {town} {past}.", "{town}{past}有{sky}。"),
        Pair("there will be {sky} over {town} {future}.", "{town}{future}会有{sky}。"),
        Pair("the sun will shine in {town} {future}.", "{town}{future}会出太阳。"),
        Pair("dark clouds came over {town} and {name} opened an umbrella.", "乌云来到{town}上空，{name}打开了雨伞。"),
        Pair("the temperature in {town} fell to {few} degrees {past}.", "{town}的气温{past}降到了{few}度。"),
        Pair("a storm broke {few} trees {place} {past}.", "{past}暴风雨在{place}吹断了{few}棵树。"),
        Pair("the sky over {town} was clear and blue {past}.", "{town}的天空{past}又晴又蓝。"),
        Pair("snow covered every road in {town} {past}.", "{past}大雪盖住了{town}的每一条路。"),
        Pair("it will be too cold for a {ball} match in {town} {future}.", "{town}{future}会冷得没法进行{ball}比赛。"),
    ),
    "food": (
        Pair("{name} cooked {dish} for {name2} {past}.", "{name}{past}给{name2}做了{dish}。"),
        Pair("the new restaurant in {town} serves very good {dish}.", "{town}的新餐馆有很好吃的{dish}。"),
        Pair("{name} put too much salt into the {dish} {past}.", "{name}{past}在{dish}里放了太多盐。"),
        Pair("for breakfast {name} ate {dish} and {few} eggs.", "{name}早饭吃了{dish}和{few}个鸡蛋。"),
        Pair("{name} needs {few} eggs and some sugar for the cake.", "{name}做蛋糕需要{few}个鸡蛋和一些糖。"),
        Pair("the market in {town} sells sweet {fruit} {habit}.", "{town}的市场{habit}都卖甜{fruit}。"),
        Pair("{name} baked a cake with {fruit} {past}.", "{name}{past}烤了一个{fruit}蛋糕。"),
        Pair("the cook at the hotel in {town} is famous for {dish}.", "{town}酒店的厨师做{dish}很有名。"),
        Pair("on a rainy day {name} likes to eat hot {dish} at home.", "下雨天{name}喜欢在家里吃热{dish}。"),
    ),
    "travel": (
        Pair("{name} took the train from {town} to {town2} {past}.", "{name}{past}坐火车从{town}到{town2}。"),
        Pair("the plane to {town} was late because of {sky}.", "因为{sky}，去{town}的飞机晚点了。"),
        Pair("{name} will stay at a hotel in {town} for {few} nights.", "{name}会在{town}的酒店住{few}个晚上。"),
        Pair("{name} lost a passport on the way to {town} {past}.", "{name}{past}在去{town}的路上丢了护照。"),
        Pair("{many} tourists visited the old bridge in {town} {past}.", "{many}名游客{past}参观了{town}的古桥。"),
        Pair("{name} packed {few} suitcases for the holiday in {town}.", "{name}为去{town}度假收拾了{few}个行李箱。"),
        Pair("the bus to {town} leaves from the stadium {future}.", "去{town}的公共汽车{future}从体育场出发。"),
        Pair("a guide will show {name} the old streets of {town} {future}.", "导游{future}会带{name}看{town}的老街。"),
        Pair("{name} bought {few} train tickets to {town} {past}.", "{name}{past}买了{few}张去{town}的火车票。"),
    ),
    "music": (
        Pair("{name} played the {instrument} in {town} {past}.", "{name}{past}在{town}演奏了{instrument}。"),
        Pair("the band from {town} sang {few} new songs {past}.", "{town}的乐队{past}唱了{few}首新歌。"),
        Pair("{name} bought {few} tickets for the concert in {town}.", "{name}买了{few}张{town}音乐会的票。"),
        Pair("the choir of {town} sings old songs {habit}.", "{town}的合唱团{habit}都唱老歌。"),
        Pair("{name} wrote a new song about {sky}.", "{name}写了一首关于{sky}的新歌。"),
        Pair("{name} is learning to play the {instrument} with {name2}.", "{name}正在和{name2}一起学{instrument}。"),
        Pair("the orchestra will play in the stadium of {town} {future}.", "乐团{future}会在{town}的体育场演出。"),
        Pair(
            "{many} people clapped after the {instrument} concert in {town}.",
            "{town}的{instrument}音乐会结束后，{many}个人鼓掌。",
        ),
        Pair("{name} listens to the {instrument} on the radio {habit}.", "{name}{habit}都在收音机里听{instrument}。"),
    ),
    "health": (
        Pair("the doctor told {name} to {advice} {habit}.", "医生让{name}{habit}都{advice}。"),
        Pair("{name} had a bad cold and took some medicine {past}.", "{name}{past}得了重感冒，吃了一些药。"),
        Pair("the nurse gave {name} some medicine for the headache {past}.", "{past}护士给了{name}一些治头痛的药。"),
        Pair("{name} hurt a leg in the {ball} match and saw a doctor.", "{name}在{ball}比赛中伤了腿，去看了医生。"),
        Pair("eating {fruit} {habit} keeps {name} healthy.", "{habit}都吃{fruit}让{name}很健康。"),
        Pair("the hospital in {town} has {few} new doctors for children.", "{town}的医院来了{few}位新的儿童医生。"),
        Pair("{name} had a fever {past} and stayed in bed.", "{name}{past}发烧了，躺在床上。"),
        Pair("the dentist in {town} filled {few} teeth for {name}.", "{town}的牙医给{name}补了{few}颗牙。"),
        Pair("{name} was ill after the trip to {town} {past}.", "{name}{past}从{town}旅行回来后生病了。"),
    ),
}
NEUTRAL = (
    Pair("{name} told {name2} about it.", "{name}把这件事告诉了{name2}。"),
    Pair("many people in {town} talked about it.", "{town}的很多人都在谈论这件事。"),
    Pair("{name} wrote about it in a letter to {name2}.", "{name}在给{name2}的信里写了这件事。"),
    Pair("{name} read about it {place}.", "{name}在{place}读到了这件事。"),
    Pair("{name} was very happy to hear it.", "{name}听到以后非常高兴。"),
    Pair("{name} will call {name2} {future}.", "{name}{future}会给{name2}打电话。"),
    Pair("{name} and {name2} saw it with their own eyes.", "{name}和{name2}亲眼看见了。"),
    Pair("this is the news from {town}.", "这是{town}的消息。"),
    Pair("{name} sent {name2} a photo.", "{name}给{name2}发了一张照片。"),
)
SLOTS: dict[str, tuple[Pair, ...]] = {
    "name": NAMES,
    "town": TOWNS,
    "past": PAST,
    "habit": HABIT,
    "future": FUTURE,
    "few": NUMBERS,
    "many": BIG_NUMBERS,
    "place": tuple(PLACES[name].at() for name in PUBLIC),
    "ball": pairs("football 足球 | basketball 篮球 | tennis 网球 | volleyball 排球"),
    "sky": pairs("heavy rain 大雨 | snow 雪 | thick fog 大雾 | strong wind 大风 | thunder 雷"),
    "dish": pairs("noodles 面条 | soup 汤 | fried rice 炒饭 | fish 鱼 | dumplings 饺子 | bread 面包"),
    "fruit": pairs("apples 苹果 | oranges 橙子 | pears 梨 | grapes 葡萄"),
    "instrument": pairs("guitar 吉他 | piano 钢琴 | violin 小提琴 | drums 鼓"),
    "advice": pairs(
        "drink more water 多喝水 | sleep eight hours 睡八个小时 | "
        "eat more fruit 多吃水果 | run in the park 在公园里跑步 | "
        "walk for an hour 走一个小时"
    ),
}


class Note(NamedTuple):
    label: str
    text: Pair
    topical: Pair
    neutral: Pair


def note(dice: Dice, label: str) -> Note:
    """A text of two sentences on this topic."""
    town = dice.pick(TOWNS)
    topical = fill(dice.pick(TOPICS[label]), dice, SLOTS, town=town)
    others = tuple(name for name in NAMES if name.en not in topical.en)
    neutral = fill(dice.pick(NEUTRAL), dice, {**SLOTS, "name": others}, town=town)
    first, second = (topical, neutral) if dice.chance(0.6) else (neutral, topical)
    return Note(label, Pair(f"{first.en} {second.en}", first.zh + second.zh), topical, neutral)
