"""The shared bilingual lexicon of the embedded samples.

Every entry is written once, in English and Chinese, so that a translation is exact by construction and every word
of a test row also occurs in training.
"""

from __future__ import annotations

from words import Food, Noun, Place, Subject, Verb, nouns, pairs

WOMEN = pairs(
    "Anna 安娜 | Lucy 露西 | Mary 玛丽 | Emma 艾玛 | Alice 爱丽丝 | "
    "Lily 莉莉 | Sara 萨拉 | Julia 朱莉娅 | Nina 妮娜 | Helen 海伦 | "
    "Linda 琳达 | Clara 克拉拉"
)
MEN = pairs(
    "Tom 汤姆 | Peter 彼得 | Jack 杰克 | David 大卫 | Paul 保罗 | "
    "Mark 马克 | Simon 西蒙 | Daniel 丹尼尔 | Leo 里奥 | Oscar 奥斯卡 | "
    "Martin 马丁 | Henry 亨利"
)
NAMES = WOMEN + MEN
TOWNS = pairs(
    "Oakfield 橡树镇 | Redhill 红山镇 | Stonebridge 石桥镇 | Lakeview 湖景镇 | "
    "Greenport 绿港镇 | Millbrook 磨坊镇 | Sandbay 沙湾镇 | "
    "Northgate 北门镇 | Roseville 玫瑰镇 | Pineford 松林镇 | Westwood 西林镇 | Silverton 银城镇"
)
JOBS = pairs(
    "nurse 护士 | teacher 老师 | doctor 医生 | farmer 农民 | baker 面包师 | "
    "driver 司机 | painter 画家 | cook 厨师 | student 学生 | "
    "writer 作家 | singer 歌手 | engineer 工程师"
)
PLACES = {
    place.en: place
    for place in (
        Place("park", "in", "公园", "里"),
        Place("school", "at", "学校", ""),
        Place("market", "at", "市场", ""),
        Place("library", "in", "图书馆", "里"),
        Place("station", "at", "车站", ""),
        Place("garden", "in", "花园", "里"),
        Place("museum", "in", "博物馆", "里"),
        Place("kitchen", "in", "厨房", "里"),
        Place("farm", "on", "农场", ""),
        Place("beach", "on", "海滩", "上"),
        Place("hotel", "at", "酒店", ""),
        Place("office", "in", "办公室", "里"),
        Place("hospital", "at", "医院", ""),
        Place("forest", "in", "森林", "里"),
        Place("lake", "by", "湖", "边"),
        Place("river", "by", "河", "边"),
    )
}
OUTDOORS = ("park", "garden", "beach", "forest", "lake", "river", "farm")
PUBLIC = ("park", "school", "market", "library", "station", "museum", "hotel", "hospital")
ANYWHERE = tuple(PLACES)
DESTINATIONS = tuple(place for place in PLACES.values() if place.en not in ("kitchen", "lake", "river"))

THINGS = nouns(
    "book 本 书 | letter 封 信 | map 张 地图 | hat 顶 帽子 | "
    "coat 件 大衣 | scarf/scarves 条 围巾 | umbrella 把 雨伞 | key 把 钥匙 | "
    "cup 个 杯子 | bag 个 包 | box 个 盒子 | basket 个 篮子 | "
    "lamp 盏 灯 | clock 个 钟 | camera 台 相机 | guitar 把 吉他 | "
    "bicycle 辆 自行车 | car 辆 汽车 | chair 把 椅子 | table 张 桌子 | "
    "kite 只 风筝 | ring 枚 戒指 | phone 部 手机 | boat 条 船"
)
ANIMALS = nouns(
    "cat 只 猫 | dog 只 狗 | horse 匹 马 | bird 只 鸟 | duck 只 鸭子 | rabbit 只 兔子 | cow 头 牛 | sheep/sheep 只 羊"
)
COLOURS = pairs(
    "red 红色的 | blue 蓝色的 | green 绿色的 | yellow 黄色的 | black 黑色的 | white 白色的 | brown 棕色的 | grey 灰色的"
)
THING_ADJECTIVES = COLOURS + pairs(
    "big 大 | small 小 | new 新 | old 旧 | beautiful 漂亮的 | expensive 昂贵的 | cheap 便宜的"
)
ANIMAL_ADJECTIVES = pairs(
    "black 黑色的 | white 白色的 | brown 棕色的 | grey 灰色的 | big 大 | small 小 | hungry 饥饿的 | clever 聪明的 | "
    "beautiful 漂亮的"
)
PERSON_ADJECTIVES = pairs(
    "young 年轻的 | kind 善良的 | tired 疲惫的 | famous 著名的 | "
    "clever 聪明的 | happy 快乐的 | busy 忙碌的 | old 年老的"
)
NUMBERS = pairs("two 两 | three 三 | four 四 | five 五 | six 六 | ten 十")
BIG_NUMBERS = pairs("twenty 二十 | thirty 三十 | forty 四十 | fifty 五十 | sixty 六十 | eighty 八十")

HOT, FRESH, SWEET, TASTY, COLD = pairs("hot 热 | fresh 新鲜的 | sweet 甜的 | delicious 美味的 | cold 冰")
FOODS = (
    Food("apple", "苹果", "个", "", (FRESH, SWEET)),
    Food("orange", "橙子", "个", "", (FRESH, SWEET)),
    Food("pear", "梨", "个", "", (FRESH, SWEET)),
    Food("cake", "蛋糕", "个", "", (SWEET, TASTY)),
    Food("sandwich", "三明治", "个", "", (TASTY, FRESH)),
    Food("fish", "鱼", "条", "", (FRESH, TASTY)),
    Food("soup", "汤", "碗", "bowl", (HOT, TASTY)),
    Food("rice", "米饭", "碗", "bowl", (HOT, TASTY)),
    Food("noodles", "面条", "碗", "bowl", (HOT, TASTY)),
    Food("bread", "面包", "片", "piece", (FRESH, TASTY)),
)
DRINKS = (
    Food("tea", "茶", "杯", "cup", (HOT,)),
    Food("coffee", "咖啡", "杯", "cup", (HOT,)),
    Food("milk", "牛奶", "杯", "glass", (FRESH, COLD)),
    Food("juice", "果汁", "杯", "glass", (FRESH, COLD)),
)

PAST = pairs(
    "yesterday 昨天 | yesterday morning 昨天早上 | last night 昨晚 | "
    "last week 上周 | last summer 去年夏天 | this morning 今天早上 | "
    "on Monday 星期一 | on Friday 星期五 | on Sunday 星期天 | "
    "on Tuesday 星期二 | on Saturday 星期六 | on Thursday 星期四"
)
HABIT = pairs(
    "every day 每天 | every morning 每天早上 | "
    "every evening 每天晚上 | every weekend 每个周末 | every Sunday 每个星期天"
)
FUTURE = pairs("tomorrow 明天 | tomorrow morning 明天早上 | next week 下周 | next month 下个月 | tonight 今晚")
DAYS = pairs(
    "Monday 星期一 | Tuesday 星期二 | Wednesday 星期三 | "
    "Thursday 星期四 | Friday 星期五 | Saturday 星期六 | Sunday 星期天"
)

SHOPS = ("market", "station", "museum", "hotel")
BUY = Verb("buy", "buys", "bought", "buying", "买", "买了", SHOPS)
SELL = Verb("sell", "sells", "sold", "selling", "卖", "卖了", SHOPS)
FIND = Verb("find", "finds", "found", "finding", "找到", "找到了", ANYWHERE)
LOSE = Verb("lose", "loses", "lost", "losing", "弄丢", "弄丢了", PUBLIC)
SEE = Verb("see", "sees", "saw", "seeing", "看见", "看见了", ANYWHERE)
BORROW = Verb("borrow", "borrows", "borrowed", "borrowing", "借", "借了", ("school", "library", "hotel", "office"))
REPAIR = Verb(
    "repair", "repairs", "repaired", "repairing", "修理", "修理了", ("school", "farm", "garden", "station", "hotel")
)
WASH = Verb("wash", "washes", "washed", "washing", "洗", "洗了", ("garden", "kitchen", "river", "farm"))
READ = Verb(
    "read",
    "reads",
    "read",
    "reading",
    "读",
    "读了",
    ("park", "library", "garden", "station", "hotel", "school", "office"),
)
FEED = Verb("feed", "feeds", "fed", "feeding", "喂", "喂了", ("park", "farm", "garden", "lake", "forest"))
DRAW = Verb("draw", "draws", "drew", "drawing", "画", "画了", ("school", "museum", "library", "park", "farm"))
SAVE = Verb("save", "saves", "saved", "saving", "救", "救了", OUTDOORS)
MEET = Verb("meet", "meets", "met", "meeting", "遇见", "遇见了", ANYWHERE)
HELP = Verb("help", "helps", "helped", "helping", "帮助", "帮助了", ANYWHERE)
VISIT = Verb(
    "visit", "visits", "visited", "visiting", "看望", "看望了", ("hospital", "school", "hotel", "office", "farm")
)
THANK = Verb("thank", "thanks", "thanked", "thanking", "感谢", "感谢了", PUBLIC)
EAT = Verb(
    "eat", "eats", "ate", "eating", "吃", "吃了", ("park", "kitchen", "garden", "hotel", "beach", "school", "office")
)
MAKE = Verb("make", "makes", "made", "making", "做", "做了", ("kitchen", "school", "hotel", "farm"))
DRINK = Verb(
    "drink", "drinks", "drank", "drinking", "喝", "喝了", ("park", "kitchen", "garden", "hotel", "office", "library")
)

_BY_NAME = {noun.en: noun for noun in THINGS}
#: What a person carries in the hand.
PORTABLE = tuple(noun for noun in THINGS if noun.en not in ("car", "table", "boat", "chair", "bicycle"))
_MACHINES = tuple(
    _BY_NAME[name]
    for name in ("bicycle", "car", "clock", "lamp", "chair", "table", "camera", "guitar", "boat", "phone")
)
_WASHABLE = tuple(_BY_NAME[name] for name in ("hat", "coat", "scarf", "cup", "bag", "basket", "bicycle", "car"))
_READABLE = tuple(_BY_NAME[name] for name in ("book", "letter", "map"))
#: What each verb is done to: the grammar says only sensible things.
THING_VERBS: tuple[tuple[Verb, tuple[Noun, ...]], ...] = (
    (BUY, THINGS),
    (SELL, THINGS),
    (FIND, PORTABLE),
    (LOSE, PORTABLE),
    (SEE, THINGS),
    (BORROW, PORTABLE),
    (REPAIR, _MACHINES),
    (WASH, _WASHABLE),
    (READ, _READABLE),
)
ANIMAL_VERBS = (SEE, FIND, FEED, DRAW, SAVE)
PERSON_VERBS = (MEET, HELP, VISIT, THANK, SEE)

ACTIVITIES = (
    Verb(
        "sing", "sings", "sang", "singing", "唱歌", "唱了歌", ("park", "school", "garden", "kitchen", "hotel", "beach")
    ),
    Verb("dance", "dances", "danced", "dancing", "跳舞", "跳了舞", ("park", "school", "hotel", "beach", "market")),
    Verb("swim", "swims", "swam", "swimming", "游泳", "游了泳", ("beach", "hotel", "school")),
    Verb("run", "runs", "ran", "running", "跑步", "跑了步", ("park", "beach", "forest", "lake", "river", "school")),
    Verb(
        "work",
        "works",
        "worked",
        "working",
        "工作",
        "工作",
        ("office", "hospital", "school", "library", "hotel", "farm", "museum", "market"),
    ),
    Verb(
        "rest",
        "rests",
        "rested",
        "resting",
        "休息",
        "休息了",
        ("park", "garden", "beach", "hotel", "lake", "river", "forest"),
    ),
    Verb(
        "play chess",
        "plays chess",
        "played chess",
        "playing chess",
        "下棋",
        "下了棋",
        ("park", "garden", "school", "library", "hotel"),
    ),
    Verb(
        "play football",
        "plays football",
        "played football",
        "playing football",
        "踢足球",
        "踢了足球",
        ("park", "school", "beach", "farm"),
    ),
    Verb(
        "play the guitar",
        "plays the guitar",
        "played the guitar",
        "playing the guitar",
        "弹吉他",
        "弹了吉他",
        ("park", "garden", "station", "beach", "hotel", "lake"),
    ),
    Verb(
        "take photos",
        "takes photos",
        "took photos",
        "taking photos",
        "拍照",
        "拍了照",
        ("park", "museum", "forest", "lake", "river", "beach", "market"),
    ),
    Verb(
        "have lunch",
        "has lunch",
        "had lunch",
        "having lunch",
        "吃午饭",
        "吃了午饭",
        ("park", "kitchen", "garden", "office", "hotel", "school", "station"),
    ),
    Verb(
        "walk", "walks", "walked", "walking", "散步", "散了步", ("park", "garden", "beach", "forest", "lake", "river")
    ),
)
ANIMAL_ACTIVITIES = (
    Verb("sleep", "sleeps", "slept", "sleeping", "睡觉", "睡了觉", OUTDOORS),
    Verb("play", "plays", "played", "playing", "玩耍", "玩耍了", OUTDOORS),
    Verb(
        "drink water",
        "drinks water",
        "drank water",
        "drinking water",
        "喝水",
        "喝了水",
        ("garden", "farm", "forest", "lake", "river"),
    ),
)
LIKES = pairs(
    "tea 茶 | coffee 咖啡 | noodles 面条 | apples 苹果 | music 音乐 | "
    "football 足球 | chess 象棋 | flowers 花 | cats 猫 | horses 马 | "
    "cake 蛋糕 | fish 鱼 | old films 老电影 | poems 诗歌"
)
SUBJECT_WORDS = (
    Subject("I", "我", "I"),
    Subject("we", "我们", "many"),
    Subject("he", "他", "one"),
    Subject("she", "她", "one"),
    Subject("they", "他们", "many"),
    Subject("my sister", "我姐姐", "one"),
    Subject("my brother", "我哥哥", "one"),
    Subject("our neighbour", "我们的邻居", "one"),
    Subject("the children", "孩子们", "many"),
    Subject("my friends", "我的朋友们", "many"),
)
