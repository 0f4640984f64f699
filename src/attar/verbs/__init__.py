"""What each verb of the command line does, from settings to files and printed words."""

from attar.verbs.compare import compare as compare
from attar.verbs.export import export as export
from attar.verbs.export import push as push
from attar.verbs.inspect import inspect as inspect
from attar.verbs.measure import evaluate as evaluate
from attar.verbs.merge import merge as merge
from attar.verbs.pools import pretrain as pretrain
from attar.verbs.runs import condense as condense
from attar.verbs.runs import demo as demo
from attar.verbs.select import select as select
