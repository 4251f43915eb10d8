BEGIN TRANSACTION;
CREATE TABLE adapters (
	id INTEGER NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	task VARCHAR(64), 
	description TEXT NOT NULL, 
	tags JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	deleted_at DATETIME, 
	CONSTRAINT pk_adapters PRIMARY KEY (id), 
	CONSTRAINT uq_adapters_name UNIQUE (name)
);
INSERT INTO "adapters" VALUES(1,'summary','summarization','Grüße','{"team": "support"}','2026-11-21 04:57:02.544257',NULL);
INSERT INTO "adapters" VALUES(2,'labels','text-classification','','{}','2026-11-21 04:57:02.575115',NULL);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE aliases (
	adapter_id INTEGER NOT NULL, 
	alias VARCHAR(128) NOT NULL, 
	version_id INTEGER NOT NULL, 
	moved_at DATETIME NOT NULL, 
	moved_by TEXT NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (adapter_id, alias), 
	CONSTRAINT fk_aliases_adapter_id_adapters FOREIGN KEY(adapter_id) REFERENCES adapters (id), 
	CONSTRAINT fk_aliases_version_id_adapter_id_versions FOREIGN KEY(version_id, adapter_id) REFERENCES versions (id, adapter_id)
);
INSERT INTO "aliases" VALUES(1,'production',1,'2026-11-21 04:57:02.710204','tester');
CREATE TABLE base_models (
	id INTEGER NOT NULL, 
	fingerprint VARCHAR(71) NOT NULL, 
	name TEXT NOT NULL, 
	location TEXT, 
	revision TEXT, 
	architecture TEXT, 
	model_type TEXT, 
	hidden_size INTEGER, 
	parameter_count BIGINT NOT NULL, 
	dtype VARCHAR(16) NOT NULL, 
	tokenizer_digest VARCHAR(71), 
	manifest_digest VARCHAR(71) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_base_models PRIMARY KEY (id), 
	CONSTRAINT ck_base_models_parameters_not_negative CHECK (parameter_count >= 0), 
	CONSTRAINT fk_base_models_manifest_digest_blobs FOREIGN KEY(manifest_digest) REFERENCES blobs (digest), 
	CONSTRAINT uq_base_models_fingerprint UNIQUE (fingerprint)
);
INSERT INTO "base_models" VALUES(1,'sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb','tiny','/models/base',NULL,'GPT2LMHeadModel','gpt2',8,640,'F32',NULL,'sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb','2026-11-21 04:57:02.526859');
CREATE TABLE blobs (
	digest VARCHAR(71) NOT NULL, 
	size BIGINT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_blobs PRIMARY KEY (digest), 
	CONSTRAINT ck_blobs_state_known CHECK (state IN ('present')), 
	CONSTRAINT ck_blobs_size_not_negative CHECK (size >= 0)
);
INSERT INTO "blobs" VALUES('sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb',789,'present','2026-11-21 04:57:02.526859');
INSERT INTO "blobs" VALUES('sha256:bc39164135efb7b5fa3b0564bb541c9e0dfc600bf4c5aa867ade5c1751bec475',179,'present','2026-11-21 04:57:02.544257');
INSERT INTO "blobs" VALUES('sha256:2441dcada4a5b24940cc3f827de76d3d79c2f9b149d1845fdef64194c7cfed92',208,'present','2026-11-21 04:57:02.544257');
INSERT INTO "blobs" VALUES('sha256:80cc94ac187885690297381b3e8582a2c799c6ee31b5083c839ff187a6ab28bd',208,'present','2026-11-21 04:57:02.558777');
INSERT INTO "blobs" VALUES('sha256:f25094b46f4404bbfa09038677f814bdc412d17a17a7e0cebf9134941ea87937',208,'present','2026-11-21 04:57:02.565453');
INSERT INTO "blobs" VALUES('sha256:ae487f836b8ac9f763e9411e50e6dc31be51f8d98e9c6f1d3780c619a22a158c',177,'present','2026-11-21 04:57:02.575115');
INSERT INTO "blobs" VALUES('sha256:57b95a132397f0205c0475292cabbf5891bd99964f87bc0d5ef0e4ad931e5464',1016,'present','2026-11-21 04:57:02.575115');
INSERT INTO "blobs" VALUES('sha256:f4154c49981154d0da7efeae37ccad821f8ab2d49f7fbf7770dc72a7261faf6f',104,'present','2026-11-21 04:57:02.603830');
INSERT INTO "blobs" VALUES('sha256:385b1b7d25381f71f2d66f163c9141ab2021349d791bd6dca9ee6ebb9e5202b1',104,'present','2026-11-21 04:57:02.621659');
INSERT INTO "blobs" VALUES('sha256:a242c65bafb18572980c333625f7236b41326700c473f183da60063d3330460e',104,'present','2026-11-21 04:57:02.627900');
CREATE TABLE evaluations (
	id INTEGER NOT NULL, 
	version_id INTEGER, 
	base_model_id INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	dataset_name TEXT, 
	dataset_digest VARCHAR(71), 
	settings JSON NOT NULL, 
	settings_digest VARCHAR(71), 
	library TEXT, 
	n INTEGER, 
	examples VARCHAR(71), 
	created_by TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_evaluations PRIMARY KEY (id), 
	CONSTRAINT ck_evaluations_measured_says_how CHECK (kind = 'reported' OR (dataset_digest IS NOT NULL AND settings_digest IS NOT NULL AND library IS NOT NULL AND n IS NOT NULL AND examples IS NOT NULL)), 
	CONSTRAINT ck_evaluations_kind_known CHECK (kind IN ('measured', 'reported')), 
	CONSTRAINT ck_evaluations_n_positive CHECK (n IS NULL OR n >= 1), 
	CONSTRAINT fk_evaluations_base_model_id_base_models FOREIGN KEY(base_model_id) REFERENCES base_models (id), 
	CONSTRAINT fk_evaluations_examples_blobs FOREIGN KEY(examples) REFERENCES blobs (digest), 
	CONSTRAINT fk_evaluations_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
);
INSERT INTO "evaluations" VALUES(1,1,1,'reported',NULL,NULL,'{}',NULL,NULL,NULL,NULL,'tester','2026-11-21 04:57:02.544257');
INSERT INTO "evaluations" VALUES(2,2,1,'reported',NULL,NULL,'{}',NULL,NULL,NULL,NULL,'tester','2026-11-21 04:57:02.558777');
INSERT INTO "evaluations" VALUES(3,3,1,'reported',NULL,NULL,'{}',NULL,NULL,NULL,NULL,'tester','2026-11-21 04:57:02.565453');
INSERT INTO "evaluations" VALUES(4,1,1,'measured','test','sha256:18ac3e7343f016890c510e93f935261169d9e3f565436429830faf0934f4f8e4','{"max_new_tokens": 8}','sha256:9a27907cee75fd2ef944645482a0ececc12b6ab1d253aaabb16500e68c49155d','rouge-score 0.1.2',2,'sha256:f4154c49981154d0da7efeae37ccad821f8ab2d49f7fbf7770dc72a7261faf6f','tester','2026-11-21 04:57:02.603830');
INSERT INTO "evaluations" VALUES(5,2,1,'measured','test','sha256:18ac3e7343f016890c510e93f935261169d9e3f565436429830faf0934f4f8e4','{"max_new_tokens": 8}','sha256:9a27907cee75fd2ef944645482a0ececc12b6ab1d253aaabb16500e68c49155d','rouge-score 0.1.2',2,'sha256:385b1b7d25381f71f2d66f163c9141ab2021349d791bd6dca9ee6ebb9e5202b1','tester','2026-11-21 04:57:02.621659');
INSERT INTO "evaluations" VALUES(6,NULL,1,'measured','test','sha256:18ac3e7343f016890c510e93f935261169d9e3f565436429830faf0934f4f8e4','{"max_new_tokens": 8}','sha256:9a27907cee75fd2ef944645482a0ececc12b6ab1d253aaabb16500e68c49155d','rouge-score 0.1.2',2,'sha256:a242c65bafb18572980c333625f7236b41326700c473f183da60063d3330460e','tester','2026-11-21 04:57:02.627900');
CREATE TABLE events (
	position INTEGER NOT NULL, 
	time DATETIME NOT NULL, 
	actor TEXT NOT NULL, 
	action VARCHAR(32) NOT NULL, 
	name VARCHAR(128), 
	number INTEGER, 
	alias VARCHAR(128), 
	previous INTEGER, 
	reason TEXT, 
	details JSON NOT NULL, 
	previous_hash VARCHAR(71) NOT NULL, 
	hash VARCHAR(71) NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (position), 
	CONSTRAINT uq_events_hash UNIQUE (hash), 
	CONSTRAINT uq_events_previous_hash UNIQUE (previous_hash)
);
INSERT INTO "events" VALUES(1,'2026-11-21 04:57:02.533339','tester','register-base',NULL,NULL,NULL,NULL,NULL,'{"base_model": "sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb", "base_model_name": "tiny"}','sha256:0000000000000000000000000000000000000000000000000000000000000000','sha256:48f914703519fef28fdb8b7fc819233293c522f71cee0bfdb8ca8884f147c70a');
INSERT INTO "events" VALUES(2,'2026-11-21 04:57:02.550039','tester','register','summary',1,NULL,NULL,NULL,'{"payload": "sha256:a91713c68212c3aebe4fa813da219df5299f7c0611f71ead10243d749d1d2820", "base_model": "sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb", "source_run": "run-1", "reported": {"rougeL": 0.1}}','sha256:48f914703519fef28fdb8b7fc819233293c522f71cee0bfdb8ca8884f147c70a','sha256:8cb8f7b1beb8e835ff148c9ebea65fe608c46c96a6d1d8071bf49699104c4306');
INSERT INTO "events" VALUES(3,'2026-11-21 04:57:02.559700','tester','register','summary',2,NULL,NULL,NULL,'{"payload": "sha256:34187d2aaa16c53ab678592b5056d5afe1c7834a2ff5acfdff7e269b29df1bcd", "base_model": "sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb", "source_run": "run-2", "reported": {"rougeL": 0.2}}','sha256:8cb8f7b1beb8e835ff148c9ebea65fe608c46c96a6d1d8071bf49699104c4306','sha256:38bfb7400a110736762805947614f094c4da23242ada5d7eed8feab319967486');
INSERT INTO "events" VALUES(4,'2026-11-21 04:57:02.566402','tester','register','summary',3,NULL,NULL,NULL,'{"payload": "sha256:5ff086c8ead44d278b51ea5cd8a41dfe056612384f1d731b9aeb9c9615f1af9e", "base_model": "sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb", "source_run": "run-3", "reported": {"rougeL": 0.30000000000000004}}','sha256:38bfb7400a110736762805947614f094c4da23242ada5d7eed8feab319967486','sha256:1051dd4bf8ada78daabc333f131a200696f2744812c1d405337bb52f162fef7c');
INSERT INTO "events" VALUES(5,'2026-11-21 04:57:02.576572','tester','register','labels',1,NULL,NULL,NULL,'{"payload": "sha256:95baf97d749ff0bf40b3d68322151c294e9c8521a932f48fbc5fd027ce89915d", "base_model": "sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb", "source_run": null, "reported": {}}','sha256:1051dd4bf8ada78daabc333f131a200696f2744812c1d405337bb52f162fef7c','sha256:4adeade0202dc844d271bdc32cccf6638147b59f26c8a01273de773f60c69985');
INSERT INTO "events" VALUES(6,'2026-11-21 04:57:02.609875','tester','evaluate','summary',1,NULL,NULL,NULL,'{"base_model": "sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb", "dataset": "test", "dataset_digest": "sha256:18ac3e7343f016890c510e93f935261169d9e3f565436429830faf0934f4f8e4", "n": 2, "scores": {"rougeL": 0.2}, "examples": "sha256:f4154c49981154d0da7efeae37ccad821f8ab2d49f7fbf7770dc72a7261faf6f"}','sha256:4adeade0202dc844d271bdc32cccf6638147b59f26c8a01273de773f60c69985','sha256:d1e9f6fe3daf25794f5cb1c45de4140bf1433742b9658a89295ee5f45da50e7c');
INSERT INTO "events" VALUES(7,'2026-11-21 04:57:02.623849','tester','evaluate','summary',2,NULL,NULL,NULL,'{"base_model": "sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb", "dataset": "test", "dataset_digest": "sha256:18ac3e7343f016890c510e93f935261169d9e3f565436429830faf0934f4f8e4", "n": 2, "scores": {"rougeL": 0.5}, "examples": "sha256:385b1b7d25381f71f2d66f163c9141ab2021349d791bd6dca9ee6ebb9e5202b1"}','sha256:d1e9f6fe3daf25794f5cb1c45de4140bf1433742b9658a89295ee5f45da50e7c','sha256:a3f987716cc5169f45fcf9838ee86c32a7db5e77f755a4e4fc81f3b244b4df26');
INSERT INTO "events" VALUES(8,'2026-11-21 04:57:02.629730','tester','evaluate',NULL,NULL,NULL,NULL,NULL,'{"base_model": "sha256:9437be8dea985ed696bccc7bd2161729cd4ff2e929f3150ab9348b6353df45eb", "dataset": "test", "dataset_digest": "sha256:18ac3e7343f016890c510e93f935261169d9e3f565436429830faf0934f4f8e4", "n": 2, "scores": {"rougeL": 0.05}, "examples": "sha256:a242c65bafb18572980c333625f7236b41326700c473f183da60063d3330460e"}','sha256:a3f987716cc5169f45fcf9838ee86c32a7db5e77f755a4e4fc81f3b244b4df26','sha256:94d466378ebd54713d9bfb55d8bab477388cc3631b476b1e20fc99a5de36f01d');
INSERT INTO "events" VALUES(9,'2026-11-21 04:57:02.691258','tester','require','summary',NULL,'production',NULL,NULL,'{"requirements": ["rougeL >= 0.15"], "before": []}','sha256:94d466378ebd54713d9bfb55d8bab477388cc3631b476b1e20fc99a5de36f01d','sha256:8ba4b019388bb09884068182903c6dbdc01857627d4fb8d11d41214b323aff44');
INSERT INTO "events" VALUES(10,'2026-11-21 04:57:02.699071','tester','promote','summary',1,'production',NULL,'first','{"forced": false, "gates": [{"requirement": "rougeL >= 0.15", "passed": true, "message": "rougeL of summary/1 is 0.2000, 0.0500 above 0.15 (n=2, 95 % interval 0.1000 to 0.3000)", "shortfall": null}]}','sha256:8ba4b019388bb09884068182903c6dbdc01857627d4fb8d11d41214b323aff44','sha256:e51d2d1259ca87cb2209cb17743bd8ff337f3862292316c102910d5a7307754e');
INSERT INTO "events" VALUES(11,'2026-11-21 04:57:02.705272','tester','promote','summary',2,'production',1,NULL,'{"forced": false, "gates": [{"requirement": "rougeL >= 0.15", "passed": true, "message": "rougeL of summary/2 is 0.5000, 0.3500 above 0.15 (n=2, 95 % interval 0.4000 to 0.6000)", "shortfall": null}]}','sha256:e51d2d1259ca87cb2209cb17743bd8ff337f3862292316c102910d5a7307754e','sha256:c412a268931eec9fefc9ef4c53c31785009d03449419fca37feab4ea15f0a938');
INSERT INTO "events" VALUES(12,'2026-11-21 04:57:02.711083','tester','rollback','summary',1,'production',2,'worse','{"forced": false, "gates": []}','sha256:c412a268931eec9fefc9ef4c53c31785009d03449419fca37feab4ea15f0a938','sha256:1088ce7ba07e37313ccb913974aeedabddcfba8144402fa60ec24717dc63eb13');
INSERT INTO "events" VALUES(13,'2026-11-21 04:57:02.715705','tester','promotion-refused','labels',1,'production',NULL,NULL,'{"gates": [{"requirement": "accuracy >= 0.9", "passed": false, "message": "labels/1 has no measured accuracy; measure it with: dovetail evaluate labels/1", "shortfall": null}]}','sha256:1088ce7ba07e37313ccb913974aeedabddcfba8144402fa60ec24717dc63eb13','sha256:24fb44ad43fb9638a4dd074fbdc63bc09b4205dafa39d2ae3acb997a5e90972e');
INSERT INTO "events" VALUES(14,'2026-11-21 04:57:02.718633','tester','delete','summary',3,NULL,NULL,'bad data','{}','sha256:24fb44ad43fb9638a4dd074fbdc63bc09b4205dafa39d2ae3acb997a5e90972e','sha256:9dae448faddb45d65ee5ba9405365545083d145f826a7a4143be8f6cac34f99f');
CREATE TABLE files (
	version_id INTEGER NOT NULL, 
	path VARCHAR(255) NOT NULL, 
	blob VARCHAR(71) NOT NULL, 
	CONSTRAINT pk_files PRIMARY KEY (version_id, path), 
	CONSTRAINT fk_files_blob_blobs FOREIGN KEY(blob) REFERENCES blobs (digest), 
	CONSTRAINT fk_files_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
);
INSERT INTO "files" VALUES(1,'adapter_config.json','sha256:bc39164135efb7b5fa3b0564bb541c9e0dfc600bf4c5aa867ade5c1751bec475');
INSERT INTO "files" VALUES(1,'adapter_model.safetensors','sha256:2441dcada4a5b24940cc3f827de76d3d79c2f9b149d1845fdef64194c7cfed92');
INSERT INTO "files" VALUES(2,'adapter_config.json','sha256:bc39164135efb7b5fa3b0564bb541c9e0dfc600bf4c5aa867ade5c1751bec475');
INSERT INTO "files" VALUES(2,'adapter_model.safetensors','sha256:80cc94ac187885690297381b3e8582a2c799c6ee31b5083c839ff187a6ab28bd');
INSERT INTO "files" VALUES(3,'adapter_config.json','sha256:bc39164135efb7b5fa3b0564bb541c9e0dfc600bf4c5aa867ade5c1751bec475');
INSERT INTO "files" VALUES(3,'adapter_model.safetensors','sha256:f25094b46f4404bbfa09038677f814bdc412d17a17a7e0cebf9134941ea87937');
INSERT INTO "files" VALUES(4,'adapter_config.json','sha256:ae487f836b8ac9f763e9411e50e6dc31be51f8d98e9c6f1d3780c619a22a158c');
INSERT INTO "files" VALUES(4,'adapter_model.safetensors','sha256:57b95a132397f0205c0475292cabbf5891bd99964f87bc0d5ef0e4ad931e5464');
CREATE TABLE requirements (
	adapter_id INTEGER NOT NULL, 
	alias VARCHAR(128) NOT NULL, 
	position INTEGER NOT NULL, 
	requirement TEXT NOT NULL, 
	CONSTRAINT pk_requirements PRIMARY KEY (adapter_id, alias, position), 
	CONSTRAINT fk_requirements_adapter_id_adapters FOREIGN KEY(adapter_id) REFERENCES adapters (id)
);
INSERT INTO "requirements" VALUES(1,'production',0,'rougeL >= 0.15');
CREATE TABLE scores (
	evaluation_id INTEGER NOT NULL, 
	metric VARCHAR(128) NOT NULL, 
	value FLOAT NOT NULL, 
	ci_low FLOAT, 
	ci_high FLOAT, 
	CONSTRAINT pk_scores PRIMARY KEY (evaluation_id, metric), 
	CONSTRAINT ck_scores_value_is_a_number CHECK (value = value AND value <> 'NaN'), 
	CONSTRAINT fk_scores_evaluation_id_evaluations FOREIGN KEY(evaluation_id) REFERENCES evaluations (id)
);
INSERT INTO "scores" VALUES(1,'rougeL',0.1,NULL,NULL);
INSERT INTO "scores" VALUES(2,'rougeL',0.2,NULL,NULL);
INSERT INTO "scores" VALUES(3,'rougeL',3.00000000000000044408e-01,NULL,NULL);
INSERT INTO "scores" VALUES(4,'rougeL',0.2,0.1,0.3);
INSERT INTO "scores" VALUES(5,'rougeL',0.5,0.4,0.6);
INSERT INTO "scores" VALUES(6,'rougeL',0.05,0.0,0.1);
CREATE TABLE versions (
	id INTEGER NOT NULL, 
	adapter_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	base_model_id INTEGER NOT NULL, 
	content_digest VARCHAR(71) NOT NULL, 
	payload_digest VARCHAR(71) NOT NULL, 
	peft_type VARCHAR(64) NOT NULL, 
	config JSON NOT NULL, 
	hyperparameters JSON NOT NULL, 
	parameter_count BIGINT NOT NULL, 
	input_template TEXT, 
	generation_config JSON NOT NULL, 
	source_run TEXT, 
	findings JSON NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	deleted_at DATETIME, 
	CONSTRAINT pk_versions PRIMARY KEY (id), 
	CONSTRAINT ck_versions_number_positive CHECK (number >= 1), 
	CONSTRAINT ck_versions_parameters_not_negative CHECK (parameter_count >= 0), 
	CONSTRAINT fk_versions_adapter_id_adapters FOREIGN KEY(adapter_id) REFERENCES adapters (id), 
	CONSTRAINT fk_versions_base_model_id_base_models FOREIGN KEY(base_model_id) REFERENCES base_models (id), 
	CONSTRAINT uq_versions_adapter_id_content_digest UNIQUE (adapter_id, content_digest), 
	CONSTRAINT uq_versions_adapter_id_number UNIQUE (adapter_id, number), 
	CONSTRAINT uq_versions_id_adapter_id UNIQUE (id, adapter_id)
);
INSERT INTO "versions" VALUES(1,1,1,1,'sha256:97e824e8a414d20680daa5648d63cddc8594461022e8ec48243c5cf761ba55c4','sha256:a91713c68212c3aebe4fa813da219df5299f7c0611f71ead10243d749d1d2820','PROMPT_TUNING','{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "num_virtual_tokens": 3, "token_dim": 8, "num_transformer_submodules": 1}','{"seed": 1, "lr": 0.01}',24,'Summarise: {text}','{"max_new_tokens": 8}','run-1','[]','tester','2026-11-21 04:57:02.544257',NULL);
INSERT INTO "versions" VALUES(2,1,2,1,'sha256:8e1034862ad787cc2d72f675b345596ffc07da79b0e1a6bbed5e62a387a7a026','sha256:34187d2aaa16c53ab678592b5056d5afe1c7834a2ff5acfdff7e269b29df1bcd','PROMPT_TUNING','{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "num_virtual_tokens": 3, "token_dim": 8, "num_transformer_submodules": 1}','{"seed": 2, "lr": 0.01}',24,'Summarise: {text}','{"max_new_tokens": 8}','run-2','[]','tester','2026-11-21 04:57:02.558777',NULL);
INSERT INTO "versions" VALUES(3,1,3,1,'sha256:ca2c74cdabbdb391b3b5cd835c32e3e61b1a12a1bc0a4a4c0c9aa88b6416e523','sha256:5ff086c8ead44d278b51ea5cd8a41dfe056612384f1d731b9aeb9c9615f1af9e','PROMPT_TUNING','{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "num_virtual_tokens": 3, "token_dim": 8, "num_transformer_submodules": 1}','{"seed": 3, "lr": 0.01}',24,'Summarise: {text}','{"max_new_tokens": 8}','run-3','[]','tester','2026-11-21 04:57:02.565453','2026-11-21 04:57:02.717587');
INSERT INTO "versions" VALUES(4,2,1,1,'sha256:f409097cbb7cf2f9cbec04686bd1d42a679363ee4dfa33c7896c8046f093d33b','sha256:95baf97d749ff0bf40b3d68322151c294e9c8521a932f48fbc5fd027ce89915d','LORA','{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["c_attn"]}','{}',128,NULL,'{}',NULL,'[]','tester','2026-11-21 04:57:02.575115',NULL);
CREATE INDEX ix_events_name_alias ON events (name, alias);
CREATE INDEX ix_base_models_name ON base_models (name);
CREATE INDEX ix_versions_base_model_id ON versions (base_model_id);
CREATE INDEX ix_versions_created_at ON versions (created_at);
CREATE INDEX ix_versions_payload_digest ON versions (payload_digest);
CREATE INDEX ix_aliases_version_id ON aliases (version_id);
CREATE INDEX ix_evaluations_base_model_id ON evaluations (base_model_id);
CREATE INDEX ix_evaluations_dataset_digest ON evaluations (dataset_digest);
CREATE INDEX ix_evaluations_examples ON evaluations (examples);
CREATE INDEX ix_evaluations_version_id ON evaluations (version_id);
CREATE INDEX ix_files_blob ON files (blob);
CREATE INDEX ix_scores_metric_value ON scores (metric, value, evaluation_id);
COMMIT;
